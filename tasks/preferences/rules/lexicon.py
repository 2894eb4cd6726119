"""Words by which the built-in scorer knows toxic text. Contains offensive words: that is its purpose.

A short list on purpose: it finds the plain cases with few false alarms. Words that are hostile only to some readers or
only in some sentences are left out; another scorer can be named in `ingest.rules.toxicity.scorer`.
"""

# Abuse whatever the sentence says.
SLURS = frozenset(
    "nigger niggers nigga niggas faggot faggots fag fags kike kikes spic spics chink chinks gook gooks wetback "
    "wetbacks raghead ragheads towelhead towelheads tranny trannies dyke dykes retard retards coon coons paki "
    "pakis kys".split()
)
# Coarse, and abuse where somebody is called so.
PROFANE = frozenset(
    "fuck fucks fucked fucker fuckers fucking motherfucker motherfuckers shit shits shitty bullshit bitch "
    "bitches bastard bastards asshole assholes cunt cunts dick dickhead prick pricks slut sluts whore whores "
    "twat wanker cock pussy piss pissed crap damn goddamn ass arse dumbass jackass".split()
)
INSULTS = frozenset(
    "idiot idiots idiotic moron morons moronic imbecile stupid dumb loser losers pathetic worthless scum trash "
    "garbage ugly disgusting fat freak freaks creep pig pigs cow vermin parasite parasites subhuman subhumans "
    "filth animals inferior cockroach cockroaches".split()
)
THREATS = frozenset("kill die hang murder rape beat stab shoot burn gas drown exterminate".split())
# Spelt apart or stretched they are the same.
STRONG = tuple(sorted(word for word in (*SLURS, "fuck", "shit", "bitch", "cunt", "whore", "asshole") if len(word) > 3))
