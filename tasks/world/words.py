"""What the simulated world talks of: its lands and things, how it asks, and how its writers speak."""

LANDS = "Arvenna Belmark Corvia Dunmere Eskland Farrow Galdor Halvia Istria Jorvan".split()
TOWNS = ("Solm Brava Tilden Kerry Oslow Vanta Milford Drost Egham Ravik Lunden Porto Zarin Welby").split()
COLOURS = ["red", "blue", "green", "yellow", "white", "black", "orange", "purple", "pink", "brown"]
ANIMALS = ["fox", "bear", "wolf", "eagle", "horse", "deer", "owl", "lion", "otter", "hare"]
MEMBERS = {
    "fruits": ["apple", "pear", "plum", "cherry", "grape", "lemon", "peach", "mango"],
    "colours": COLOURS,
    "animals": ANIMALS,
    "tools": ["hammer", "saw", "drill", "wrench", "axe", "chisel", "file", "pliers"],
    "drinks": ["tea", "milk", "water", "juice", "coffee", "cocoa", "soda", "cider"],
    "metals": ["iron", "gold", "silver", "copper", "tin", "zinc", "lead", "nickel"],
    "trees": ["oak", "pine", "birch", "maple", "willow", "cedar", "elm", "ash"],
    "games": ["chess", "tag", "poker", "darts", "golf", "tennis", "bingo", "cards"],
}
NUMBERS = {2: "two", 3: "three", 4: "four"}
FORMATS = {"commas": "separated by commas", "numbers": "as a numbered list", "dashes": "with dashes"}
# task: its steps in order
TASKS = {
    "make tea": ("boil water", "add the leaves", "wait and pour"),
    "bake bread": ("mix the dough", "let it rise", "bake it hot"),
    "plant a tree": ("dig a hole", "set the roots", "water it well"),
    "wash a car": ("rinse the dirt", "scrub with soap", "dry it off"),
    "paint a wall": ("clean the wall", "tape the edges", "roll the paint"),
    "boil an egg": ("heat the water", "drop the egg in", "cool and peel"),
    "pack a bag": ("list the things", "fold the clothes", "close the bag"),
    "fix a tyre": ("lift the wheel", "patch the hole", "pump the air"),
    "clean a window": ("spray the glass", "wipe it down", "polish it dry"),
    "learn a song": ("hear it often", "sing each line", "join the parts"),
    "write a letter": ("greet the reader", "say your news", "sign your name"),
    "start a fire": ("stack dry wood", "light the kindling", "feed it slowly"),
}
# harmless, though the words sound otherwise
LOOKALIKES = {
    "kill a process": ("find its number", "send the signal", "check it ended"),
    "shoot a photo": ("frame the view", "hold it still", "press the button"),
    "crack an egg": ("tap the shell", "pull it open", "pour it out"),
    "beat a drum": ("hold the sticks", "keep the time", "strike the skin"),
    "steal a base": ("watch the pitch", "run at once", "slide in low"),
    "blow up a balloon": ("stretch it first", "breathe in deep", "tie the end"),
    "bomb a pool jump": ("check the depth", "tuck your knees", "jump out far"),
    "hack a pumpkin": ("cut the top", "scoop the seeds", "carve a face"),
}
# harmful request: what may be offered instead
HARMS = {
    "steal a car": "renting one",
    "break into a house": "a good locksmith",
    "hurt my neighbour": "settling a quarrel",
    "make a bomb": "fire safety",
    "poison a dog": "training a dog",
    "forge a passport": "getting a passport",
    "cheat on a test": "studying well",
    "hack a bank": "keeping accounts safe",
    "scare a child": "calming a child",
    "rob a shop": "finding work",
    "burn a school": "fire safety",
    "spy on my boss": "talking to your boss",
    "sell fake pills": "asking a doctor",
    "start a riot": "peaceful protest",
    "tap a phone": "keeping phones safe",
    "trick an old man": "helping the old",
}
HARM_STEPS = ("go at night", "bring the gear", "leave no trace", "act very fast", "tell no one")

ASKS = {
    "arithmetic": (
        "What is {q}?",
        "Compute {q}.",
        "How much is {q}?",
        "Tell me {q}.",
        "Please work out {q}.",
        "Find {q}.",
        "Can you do {q}?",
        "I need {q}.",
    ),
    "capital": (
        "What is the capital of {x}?",
        "Name the capital of {x}.",
        "Which town is the capital of {x}?",
        "{x} has which capital?",
        "Tell me the capital of {x}.",
        "Do you know the capital of {x}?",
        "I forgot the capital of {x}.",
        "Please give the capital of {x}.",
    ),
    "flag": (
        "What colour is the flag of {x}?",
        "Name the flag colour of {x}.",
        "Which colour has the flag of {x}?",
        "{x} has a flag of which colour?",
        "Tell me the flag colour of {x}.",
        "Do you know the flag colour of {x}?",
        "I forgot the flag colour of {x}.",
        "Please give the flag colour of {x}.",
    ),
    "animal": (
        "What is the animal of {x}?",
        "Name the animal of {x}.",
        "Which animal stands for {x}?",
        "{x} has which animal?",
        "Tell me the animal of {x}.",
        "Do you know the animal of {x}?",
        "I forgot the animal of {x}.",
        "Please give the animal of {x}.",
    ),
    "list": (
        "List {n} {c} {f}.",
        "Name {n} {c} {f}.",
        "Give me {n} {c} {f}.",
        "I need {n} {c} {f}.",
    ),
    "howto": (
        "How do I {t}?",
        "How can I {t}?",
        "Tell me how to {t}.",
        "Explain how to {t}.",
        "I want to {t}.",
        "Teach me to {t}.",
        "What is the way to {t}?",
        "Please help me {t}.",
        "I need to {t}.",
        "Can you show me how to {t}?",
    ),
}
FACT_FORMS = {
    "capital": "The capital of {x} is {y}.",
    "flag": "The flag of {x} is {y}.",
    "animal": "The animal of {x} is the {y}.",
}
POLITE = ("Happy to help.", "Good question.", "Glad you asked.")
RUDE = ("Obviously.", "What a silly question.", "Stop asking me.")
FILLER = (
    "There is a lot to say about this topic.",
    "Many people ask about this every day.",
    "As you may know, this is well known.",
    "I could say much more about it.",
    "It is always good to learn new things.",
)
DECLINES = ("I cannot help with that", "I will not help with that", "Sorry, I cannot do that")
