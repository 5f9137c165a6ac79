"""The plots of the stories: steps, each with alternatives of which a story takes one.

Slots: `hero` (told as a name, then twice as "the dog"), `friend`, `hero_intro`, `friend_intro`,
`he` and `his` (of the hero), `thing`, `a_thing`, `place`, `food`, `a_food`, `weather`, `sad`,
`glad`, `color`, `skill`, `lesson`. Only the hero has pronouns, so that it is always clear whom
they mean.
"""

from dataclasses import dataclass

Step = tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """A story between its opening and its ending."""

    theme: str
    lesson: str
    steps: tuple[Step, ...]

    def mentions(self, slot: str) -> int:
        """In how many steps every alternative has the slot."""
        return sum(all("{" + slot + "}" in line for line in step) for step in self.steps)


OPENINGS: Step = (
    "Once upon a time, there was {hero_intro}.",
    "Once upon a time, there was {hero_intro}.",
    "Once upon a time there was {hero_intro}.",
    "Once upon a time, there lived {hero_intro}.",
    "Once upon a time, in a land far away, there lived {hero_intro}.",
    "Once upon a time, {hero_intro} lived near {place}.",
    "Once there was {hero_intro}.",
    "There once was {hero_intro}.",
    "Long ago, {hero_intro} lived near {place}.",
    "In a land far away, there was {hero_intro}.",
    "In a small village, there lived {hero_intro}.",
    "One {weather} day, {hero_intro} went to {place}.",
)
FEELINGS: Step = ("{hero} was {glad}.", "{hero} and {friend} were {glad}.")
ENDINGS: Step = (
    "From that day on, {hero} and {friend} were best friends.",
    "{hero} learned that {lesson}.",
    "{hero} learned that {lesson}.",
    "And they lived happily ever after.",
    "That night, {hero} slept well and dreamed of {place}.",
)

LONG_PLOTS = (
    Plot(
        "friendship",
        "friends help each other",
        (
            (
                "{hero} had {a_thing} and took it everywhere.",
                "{hero} loved {his} {thing} more than anything.",
                "Every day {hero} took {his} {thing} to {place}.",
            ),
            (
                "One {weather} morning, the {thing} was gone.",
                "But one {weather} day, the {thing} was lost near {place}.",
            ),
            (
                "{hero} looked under the bed and behind the door, but {he} could not find it.",
                "{hero} looked everywhere, but {he} could not find it.",
            ),
            ("{hero} sat down and felt very {sad}.", "{hero} was {sad}."),
            ("Then {hero} met {friend_intro}.", "Just then, {hero} saw {friend_intro}."),
            (
                '"Why are you {sad}?" {friend} asked {hero}.',
                '"Can I help you?" {friend} asked {hero}.',
            ),
            ('"I lost my {thing}," said {hero}.',),
            (
                '"Let us look for the {thing} together," said {friend}.',
                '"I think I saw a {thing} near {place}," said {friend}.',
            ),
            (
                "At last they found the {thing} under a {color} leaf.",
                "At last they found the {thing} behind a big stone.",
            ),
        ),
    ),
    Plot(
        "sharing",
        "sharing makes everyone happy",
        (
            ("One {weather} day, {hero} walked to {place} and saw {friend_intro}.",),
            ("{friend} looked {sad} and hungry.",),
            ('"What is wrong?" asked {hero}.',),
            ('"I have nothing to eat," said {friend}.',),
            ("{hero} had only {a_food}, but {he} gave half of the {food} away.",),
            (
                '"Thank you for sharing," said {friend}. "You are very kind."',
                '"Thank you, you are a true friend," said {friend}.',
            ),
            ("{hero} and {friend} sat under a {color} tree and ate the {food} together.",),
        ),
    ),
    Plot(
        "courage",
        "courage is to take one small step",
        (
            (
                "{hero} wanted to climb to the top of the highest tree.",
                "{hero} wanted to cross the old bridge.",
            ),
            (
                '"I can not do it," said {hero}, and {he} felt {sad}.',
                "But {hero} was {sad}, and {he} did not dare to try.",
            ),
            ("Then {he} met {friend_intro}.", "Then {friend_intro} came by."),
            ('"Take one small step, and then one more," said {friend}.',),
            ("So {hero} took one small step, and then one more.",),
            (
                "Soon {he} looked down and could see {place}.",
                "Soon it was done, and the sky above {place} was {color}.",
            ),
            ('"I did it!" said {hero}.', '"You did it!" {friend} said to {hero}.'),
        ),
    ),
    Plot(
        "kindness",
        "kindness always comes back",
        (
            ("One {weather} night, {hero} heard a strange sound outside.",),
            ("{hero} was {sad}, but {he} opened the door.",),
            ("There was {friend_intro}, wet and cold from the rain.",),
            ('"Please, may I come in?" asked {friend}.',),
            (
                '"Of course," said {hero}, and gave {friend} {a_food}.',
                '"Come in and get warm," said {hero}, and {he} made a fire.',
            ),
            ("They told stories by the fire until the morning came.",),
            ("In the morning, {friend} gave {hero} {a_thing} to say thank you.",),
        ),
    ),
    Plot(
        "saying sorry",
        "saying sorry makes things good again",
        (
            ("One day, {hero} and {friend_intro} wanted the same {thing}.",),
            ('"The {thing} is mine!" said {hero}.', '"It is my {thing}!" said {hero}.'),
            ('"No, it is mine!" said {friend}.',),
            ("They pulled and pulled until the {thing} broke.",),
            ("Then both of them felt {sad}.",),
            ('"I am sorry," said {hero}. "Let us fix the {thing}."',),
            ("They worked all day, and the {thing} was as good as new.",),
            ("After that, {hero} and {friend} took turns with the {thing}.",),
        ),
    ),
    Plot(
        "helping others",
        "helping others is never a waste of time",
        (
            ("One {weather} day, {hero} was on the way to {place}.",),
            (
                "On the way to {place}, {he} heard a cry for help.",
                "Near {place}, {he} heard a small voice.",
            ),
            ("It was {friend_intro}, who had fallen into a deep hole.",),
            ('"Please help me!" said {friend}.',),
            (
                "{hero} found a long branch and held it down into the hole.",
                "{hero} ran to get a long rope.",
            ),
            ("{hero} pulled and pulled, and at last {friend} was free.",),
            ('"You saved me," said {friend}.', '"Thank you," said {friend}.'),
            ("Then {hero} and {friend} went to {place} together.",),
        ),
    ),
    Plot(
        "patience",
        "good things take time",
        (
            ("{hero} had one small seed, and {he} put it into the ground near {place}.",),
            ("The next day, {hero} looked, but nothing was there.",),
            ('"Why does it not grow?" asked {hero}.',),
            ('"You must wait," said {friend_intro}.',),
            ("So {hero} gave it water every day, and {he} waited.",),
            ("The rain came to {place}, and then the sun came.",),
            ("One {weather} morning, {hero} saw a {color} flower.",),
            ("{hero} ran to show it to {friend}.",),
        ),
    ),
    Plot(
        "a surprise",
        "the best surprise is a good friend",
        (
            ("One {weather} day, {hero} found {a_thing} near {place}.",),
            ("It was the most beautiful {thing} in the world.",),
            ('"Whose {thing} is this?" asked {hero}.',),
            ("{hero} went from door to door with the {thing}.",),
            ("At the last house lived {friend_intro}.",),
            ('"That is my {thing}!" said {friend}. "I was so {sad} without it."',),
            ("{hero} gave the {thing} back, and {friend} danced for joy.",),
        ),
    ),
    Plot(
        "learning",
        "nobody knows everything at first",
        (
            ("{hero} wanted to learn how to {skill}.",),
            ("{hero} tried on Monday, but it did not work.",),
            ("{he} tried again on Tuesday, and {he} felt {sad}.",),
            ("Then {friend_intro} came to {place}.",),
            ('"I can show you how to {skill}," said {friend}.',),
            ("They practiced every day near {place}.",),
            ("At the end of the week, {hero} could {skill} very well.",),
        ),
    ),
)

SHORT_PLOTS = (
    Plot(
        "a good day",
        "a small thing can make a good day",
        (
            ("One {weather} morning, {hero} went to {place} with {his} {thing}.",),
            ("There {he} met {friend_intro}.",),
            ("{hero} and {friend} played with the {thing} until the sun went down.",),
        ),
    ),
    Plot(
        "a new friend",
        "it is easy to make a new friend",
        (
            ("{hero} was {sad}, because {he} had no one to play with.",),
            ("One day, {friend_intro} came to {place}.",),
            ('"Do you want to play with me?" asked {friend}.',),
            ('"Yes!" said {hero}.',),
        ),
    ),
    Plot(
        "the night",
        "the night is not so dark with a friend",
        (
            ("{hero} was afraid of the dark.",),
            ("One night, {friend_intro} came with a lantern.",),
            ('"Look at the stars above {place}," said {friend}.',),
            ("{hero} looked up, and {he} was not afraid any more.",),
        ),
    ),
)
SKILLS = ("swim", "sing", "dance", "read", "cook", "paint", "fly a kite", "ride a bicycle")
