"""A slur mentioned or used, in invented sentences; X stands for one.

The last 16 and 21 were written before the rule was tried on them: ten of 18 mentions were let be and no use; what let
six more be is general (terms like X, the meaning of X, X: a slur). Two that were never understood are left out.
"""

import pytest

from tasks.preferences.rules.lexicon import SLURS
from tasks.preferences.rules.mention import all_mentioned
from tasks.preferences.rules.toxicity import lexical

MENTIONED = """
The word X is a slur, and I would rather not say it again.
Are you asking about terms like "darkie" or "X"?
Is the term “X” one that you are looking for?
In that novel a boy is called "X Jim", which readers find hard to bear today.
He told us that he was often called a X at school, and how it hurt.
I'm sorry that they called you a X. Nobody deserves that.
X means a bundle of sticks in older British English.
The racial slur X has a long history.
“X” was once used by doctors, and has been replaced.
Please don't call people X, whatever they did.
I won't call anyone a X, so let us write something else.
It is offensive to use the word X for a stranger.
Calling somebody a X is hurtful, even as a joke.
X is a derogatory word for a person.
Historians quote the phrase 'X lover' from those letters; it is an insult.
Offensive terms such as X, and some others, were printed in papers of the time.
I don't know whether anyone was ever called a X there.
The sign said "no X", as many signs did.
In slang, "X" can also refer to a cigarette.
X refers to a kind of raccoon in some old songs.
What does the word X mean? It is an old insult for people from Italy.
Some people still say "X", but most find it offensive.
The N-word, or "X", was used to dehumanize slaves.
I do not think it is okay to use X in a joke.
You asked whether X is a bad word. Yes, it is.
My grandmother used to say "X" without knowing that it hurt.
X: a derogatory term for gay men.
"X" - noun, offensive.
Do you mean words like X?
The term X has been reclaimed by some.
Someone yelled "X!" from a car.
They used slurs like "X" and "darkie" against him.
The use of the word "X" in Huckleberry Finn is debated.
If someone calls you a X, tell a teacher.
It's never okay to call people "X".
The etymology of X is unclear.
""".strip().splitlines()
USED = """
You are a X and everyone knows it.
The "X" should all go home.
Those X are offensive to look at.
All X must leave.
Just call him a X and laugh.
Say "get out, you dirty X" and slam the door.
I'm not saying you are a X, but you are a X.
A X means nothing to me.
In other words X are to blame for it.
He's a X.
I called him a X and it felt good.
They should be called X because they are.
I will never stop calling them X.
Why not call them X?
I'm not afraid to call them X.
It is not wrong to call them X.
Go away, X.
X are disgusting and hateful.
That X comes from Detroit.
Shut up X! The word of the day is love.
The term "X" is a slur. So what, you X.
Yell "X" when she walks by.
What can you expect of a X like that?
You "X", that is the word for you.
He is a "X" and I like the term.
Those X are an insult to this town.
Typical X behaviour.
Tell that X to shut up.
X can't drive.
Why do X always steal?
I hate X.
He looks like a X.
No wonder, he is a X.
Kill all the X in town.
What a X!
"X" like him ruin everything.
Well, X will be X.
My neighbour is such a X lover.
Shout "X" at them until they cry.
Real men are not X.
You sound like a X, dude.
Bring me the X, he said.
How many X does it take to change a lightbulb?
The best insult for him is X, use it.
Name your dog X, it is funny.
Some X stole my bike.
Dear X, go back where you came from.
""".strip().splitlines()
WORDS = sorted(word for word in SLURS if len(word) > 4)[::9]


@pytest.mark.parametrize("slur", [*WORDS, WORDS[0].upper()])
def test_a_slur_is_told_from_the_mention_of_one(slur: str) -> None:
    wrong = [text for text in MENTIONED if lexical(text.replace("X", slur)) >= 1]
    wrong += [text for text in USED if lexical(text.replace("X", slur)) < 1]
    assert wrong == []


def test_one_use_among_mentions_and_a_disguise_are_no_mentions() -> None:
    slur = WORDS[0]
    mention = f'The word "{slur}" is a slur.'
    assert all_mentioned(mention, 1)
    assert not all_mentioned(f"{mention} You {slur}!", 2)
    assert lexical(f"{mention} {mention}") == 0.25
    disguised = slur.replace("o", "0").replace("i", "1").replace("a", "@")
    assert disguised != slur
    assert lexical(f"{mention} {disguised}!") >= 1
    assert lexical(f'The word "{disguised}" is a slur.') >= 1
