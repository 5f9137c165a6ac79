"""The words that stories and questions are made of."""

from random import Random

# Separate lists of names and kinds, so that a hero and a friend are never mixed up.
GIRLS = ("Lily", "Mia", "Anna", "Sara", "Zoe", "Nora", "Ella", "Ruby", "Clara", "Alice", "Emma")
BOYS = ("Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Finn", "Owen", "Noah", "Peter", "John")
HEROES_NAMES = GIRLS + BOYS
FRIENDS_NAMES = (
    "Bella",
    "Greta",
    "Hazel",
    "Rosa",
    "Tilly",
    "Bruno",
    "Felix",
    "Gus",
    "Milo",
    "Otto",
)
NAMES = HEROES_NAMES + FRIENDS_NAMES

ANIMALS = (
    "dog", "cat", "fox", "rabbit", "bear", "mouse", "duck", "frog", "owl", "turtle", "hedgehog",
    "squirrel", "horse", "cow", "sheep", "goat", "pig", "hen", "lion", "tiger", "elephant",
    "monkey", "wolf", "deer", "crow", "bee", "fish", "whale", "dolphin", "snail", "spider",
    "butterfly", "bird", "puppy", "kitten", "pony", "dinosaur", "parrot", "penguin", "panda",
    "unicorn", "zebra", "camel", "goose", "giraffe", "kangaroo", "crocodile", "snake", "eagle",
    "swan", "hamster", "donkey", "chicken", "shark", "octopus", "ladybug", "caterpillar", "worm",
    "bat", "rat", "koala", "lamb", "seal", "raccoon",
)  # fmt: skip
FEMALE_FOLK = ("princess", "queen", "witch", "girl", "woman", "mermaid", "grandmother")
MALE_FOLK = ("prince", "king", "boy", "man", "fisherman", "grandfather")
OTHER_FOLK = (
    "robot", "dragon", "wizard", "knight", "farmer", "baker", "sailor", "teacher", "doctor",
    "painter", "pirate", "astronaut", "fairy", "giant", "monster", "ghost", "chef", "nurse",
    "soldier", "hunter", "alien", "superhero", "ninja", "elf", "gnome", "child", "snowman",
    "cowboy", "detective", "scientist",
)  # fmt: skip
FOLK = FEMALE_FOLK + MALE_FOLK + OTHER_FOLK
HEROES = ANIMALS + FOLK
FRIENDS = (
    "neighbor", "traveler", "gardener", "shepherd", "miller", "merchant", "carpenter", "singer",
    "postman", "clown", "student", "stranger",
)  # fmt: skip
# Never in a training story, so that the evaluation can ask for one.
UNSEEN_HEROES = ("otter", "gorilla", "lizard", "plumber", "vampire", "crab", "pilot", "moose")

TRAITS = ("little", "brave", "kind", "clever", "shy", "curious", "gentle", "cheerful", "young")
PLACES = (
    "the forest", "the garden", "the park", "the beach", "the village", "the old mill",
    "the meadow", "the river", "the hill", "the market", "the lake", "the sea", "the castle",
    "the mountain", "the city", "the bridge",
)  # fmt: skip
THINGS = (
    "ball", "kite", "hat", "red boat", "shiny key", "little drum", "blue cup", "lantern",
    "paper plane", "silver bell", "book", "warm scarf", "bicycle", "golden ring", "map",
    "small flute", "toy car", "magic stone", "clock", "computer",
)  # fmt: skip
FOODS = ("apple", "pear", "slice of bread", "bowl of soup", "cookie", "carrot", "piece of cheese")
WEATHER = ("sunny", "rainy", "windy", "snowy", "cloudy", "warm", "cold", "quiet")
SAD = ("sad", "worried", "afraid", "lonely", "upset")
GLAD = ("happy", "proud", "glad", "calm", "full of joy")
COLORS = ("red", "blue", "green", "yellow", "white", "brown", "golden")

_SYLLABLES = (
    "ba", "be", "bi", "bo", "da", "do", "fa", "fi", "ga", "go", "ka", "ki", "la", "lo", "ma", "mi",
    "mo", "na", "no", "pa", "pi", "ra", "ri", "ro", "sa", "so", "ta", "ti", "to", "va", "wa", "zu",
    "blo", "cra", "dri", "flu", "gro", "kle", "pla", "qui", "ska", "sto", "tra", "vex", "zan",
    "mer", "nil", "tor", "bun", "del", "fin", "gar", "lom", "pex",
)  # fmt: skip


def with_article(noun: str) -> str:
    """`noun` after "a" or "an"."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def capitalized(text: str) -> str:
    """`text` with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def invented_word(rng: Random) -> str:
    """A word that means nothing, for questions that have no answer."""
    return "".join(rng.choices(_SYLLABLES, k=rng.choice((2, 2, 3))))
