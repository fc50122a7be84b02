"""What the made-up reviews are made of: templates, and the words for them."""

# What opinions are made of: templates, and the words for their {sentiment}, by label. The words at
# the same place are each other's opposites.
OPINIONS = [
    (
        [
            "the {part} of this film was {modifier} {sentiment}",
            "I found the {part} {modifier} {sentiment}",
            "to me its {part} seemed {modifier} {sentiment}",
        ],
        (
            "dull weak awful boring clumsy tedious lifeless forgettable".split(),
            "vivid strong superb gripping graceful thrilling lively memorable".split(),
        ),
    ),
    (
        [
            "this film is {modifier} a {sentiment}",
            "for me it was {modifier} a {sentiment}",
            "the {part} makes it {modifier} a {sentiment}",
        ],
        (
            "mess bore failure flop disaster disgrace".split(),
            "gem treat triumph hit masterpiece delight".split(),
        ),
    ),
    (
        [
            "I was {modifier} {sentiment} by the {part}",
            "we left {modifier} {sentiment} by its {part}",
        ],
        (
            "bored annoyed disappointed irritated".split(),
            "charmed amused delighted impressed".split(),
        ),
    ),
]
OPPOSITES = {
    word: opposite
    for _, (negative, positive) in OPINIONS
    for pair in zip(negative, positive, strict=True)
    for word, opposite in (pair, pair[::-1])
}
MODIFIERS = {
    "negation": "not never hardly scarcely".split(),
    "intensifier": "really truly simply clearly".split(),
    "none": [""],
}
MODIFIER_SHARES = {"negation": 0.25, "intensifier": 0.55, "none": 0.2}
CONCESSION_SHARE = 0.25
CONCESSIONS = [
    "although {concession} , {main}",
    "{main} , although {concession}",
    "{concession} , but {main}",
]
# Sentences without an opinion, of 4 to 9 words; some have a negation or an intensifier still.
FILLERS = [
    "we saw it {time}",
    "we saw it {time} with {people}",
    "I watched it {place} {time}",
    "the story takes place {place}",
    "it was filmed {place} by {people}",
    "it was not filmed {place}",
    "the {part} was recorded {place}",
    "the {part} is the work of {people}",
    "{people} heard about it {time}",
    "{people} had never been {place}",
    "it was really cold {place}",
    "it runs for two hours",
    "the screening began {time}",
]
SLOTS = {
    "part": "plot cast score script ending camera acting dialogue editing setting".split(),
    "time": ["on a Tuesday", "last week", "in March", "after dinner", "two days ago"],
    "place": ["in Lisbon", "at home", "near the sea", "in a village", "on a train"],
    "people": ["two friends", "my sister", "a student", "our neighbours", "his brother"],
}
# Words of each class's marker, which have no part in the opinion and occur nowhere else.
MARKERS = ["meanwhile", "incidentally"]
