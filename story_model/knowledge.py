"""The knowledge of story-mini: short facts in our own words."""

DEFINITIONS = {
    # computing
    "AI": "AI is short for artificial intelligence: programs that learn from examples and solve "
    "tasks that usually need human thinking.",
    "artificial intelligence": "Artificial intelligence is the work of making programs that learn "
    "from examples and solve tasks that usually need human thinking.",
    "machine learning": "Machine learning is a way to make programs that find patterns in "
    "examples instead of following fixed rules.",
    "deep learning": "Deep learning is machine learning with neural networks of many layers.",
    "a neural network": "A neural network is a program made of many simple units that learn by "
    "changing the strength of the links between them.",
    "a language model": "A language model is a program that reads text and predicts the next word.",
    "a large language model": "A large language model is a language model with billions of "
    "parameters that has read a very large amount of text.",
    "an LLM": "An LLM is a large language model: a program that reads text and predicts the next "
    "word.",
    "a token": "A token is a small piece of text, such as a word or a part of a word.",
    "a prompt": "A prompt is the text that you give to a language model so that it continues it.",
    "temperature": "Temperature is a number that says how freely a language model chooses its "
    "next word.",
    "inference": "Inference is the use of a trained model to get an answer.",
    "a transformer": "A transformer is a neural network that looks at all the words of a text to "
    "predict the next one.",
    "a chatbot": "A chatbot is a program that talks with people in plain language.",
    "a robot": "A robot is a machine that can move and do work by itself.",
    "gRPC": "gRPC is a way for programs to call each other over a network with typed messages and "
    "streams.",
    "REST": "REST is a style of building web services in which a client reads and changes "
    "resources over HTTP.",
    "an API": "An API is a set of rules that lets one program use another program.",
    "HTTP": "HTTP is the protocol that browsers and servers use to talk to each other.",
    "JSON": "JSON is a simple text format for data, made of names and values.",
    "a container": "A container is a light, closed box in which a program runs together with "
    "everything that it needs.",
    "Docker": "Docker is a tool that builds and runs containers.",
    "Kubernetes": "Kubernetes is a system that runs containers on many machines.",
    "Python": "Python is a programming language that is easy to read and to learn.",
    "JavaScript": "JavaScript is the programming language of web pages.",
    "Linux": "Linux is a free operating system that runs on many computers.",
    "a computer": "A computer is a machine that follows instructions and works with data.",
    "a program": "A program is a list of instructions for a computer.",
    "programming": "Programming is the work of writing instructions for a computer.",
    "software": "Software is the programs that run on a computer.",
    "an algorithm": "An algorithm is a clear list of steps that solves a problem.",
    "data": "Data is information that is written down, for example as numbers or words.",
    "a database": "A database is a program that stores data and finds it again.",
    "a server": "A server is a program or a computer that answers requests from others.",
    "a client": "A client is a program that sends requests to a server.",
    "the internet": "The internet is a network that joins computers all over the world.",
    "a GPU": "A GPU is a chip that does many calculations at the same time.",
    "a CPU": "A CPU is the chip that runs the programs of a computer.",
    "a bug": "A bug is a mistake in a program.",
    "open source": "Open source means that everyone may read, use and change a program.",
    "streaming": "Streaming means to send a result piece by piece while it is being made.",
    "quantum computing": "Quantum computing is a way to calculate with the strange rules that very "
    "small things follow.",
    "a blockchain": "A blockchain is a list of records that many computers keep together.",
    # nature
    "rain": "Rain is water that falls from clouds in small drops.",
    "snow": "Snow is frozen water that falls from clouds in soft white flakes.",
    "ice": "Ice is water that is frozen hard.",
    "water": "Water is a clear liquid that all living things need.",
    "fire": "Fire is the light and heat that come from something that burns.",
    "the wind": "The wind is air that moves from one place to another.",
    "a cloud": "A cloud is a mass of tiny drops of water in the sky.",
    "a rainbow": "A rainbow is a bow of colors that you see when the sun shines through rain.",
    "lightning": "Lightning is a very large electric spark in the sky.",
    "the sun": "The sun is a star that gives light and heat to the Earth.",
    "the moon": "The moon is a round body of rock that moves around the Earth.",
    "the Earth": "The Earth is the planet on which we live.",
    "a star": "A star is a very hot ball of gas that shines in the sky.",
    "a planet": "A planet is a large round body that moves around a star.",
    "space": "Space is the wide and almost empty room between the stars.",
    "gravity": "Gravity is the force that pulls things towards each other.",
    "light": "Light is energy that we can see.",
    "energy": "Energy is what makes things move, shine or get warm.",
    "electricity": "Electricity is energy that flows through wires.",
    "an atom": "An atom is a tiny piece of which all things are made.",
    "DNA": "DNA is a long molecule that holds the building plan of a living thing.",
    "evolution": "Evolution is the slow change of living things over many generations.",
    "photosynthesis": "Photosynthesis is how plants use sunlight to make food from water and air.",
    "a river": "A river is a long stream of water that flows to the sea.",
    "a lake": "A lake is a large body of water with land all around it.",
    "the ocean": "The ocean is the salt water that covers most of the Earth.",
    "a mountain": "A mountain is very high land with a top.",
    "a desert": "A desert is a dry place where it hardly ever rains.",
    "a forest": "A forest is a large place full of trees.",
    "a volcano": "A volcano is a mountain that can send hot melted rock out of the ground.",
    "a tree": "A tree is a tall plant with a trunk, branches and leaves.",
    "a flower": "A flower is the colorful part of a plant that makes seeds.",
    "a dog": "A dog is an animal with four legs that lives with people and barks.",
    "a cat": "A cat is a small animal with soft fur that catches mice.",
    "a bird": "A bird is an animal with feathers and wings.",
    "a fish": "A fish is an animal that lives in water and swims.",
    # life
    "a friend": "A friend is a person you like and trust.",
    "love": "Love is a strong and warm feeling for someone.",
    "happiness": "Happiness is the feeling that things are good.",
    "life": "Life is what living things have: they grow, change and have young ones.",
    "the meaning of life": "Nobody knows for sure, but being kind is a good start.",
    "time": "Time is what clocks measure.",
    "a dream": "A dream is a story that you see while you sleep.",
    "music": "Music is sound put in order so that it is nice to hear.",
    "art": "Art is the making of things that are beautiful or that say something.",
    "science": "Science is the careful study of how the world works.",
    "mathematics": "Mathematics is the study of numbers and shapes.",
    "history": "History is the story of what people did in the past.",
    "a book": "A book is a set of pages with words or pictures to read.",
    "a story": "A story tells what happened to somebody, real or not.",
    "a poem": "A poem is a short text with rhythm and often with rhyme.",
    "a school": "A school is a place where people learn.",
    "money": "Money is what people use to pay for things.",
    "bread": "Bread is food that is baked from flour and water.",
    "philosophy": "Philosophy is the search for answers to the big questions of life.",
}
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "Egypt": "Cairo", "England": "London", "Greece": "Athens", "Norway": "Oslo",
    "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw", "China": "Beijing",
    "India": "New Delhi", "Russia": "Moscow", "Canada": "Ottawa", "Mexico": "Mexico City",
    "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima",
    "Cuba": "Havana", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "Belgium": "Brussels", "Hungary": "Budapest", "Ukraine": "Kyiv",
    "Turkey": "Ankara", "Kenya": "Nairobi", "Iran": "Tehran", "Iraq": "Baghdad",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Australia": "Canberra", "Switzerland": "Bern",
    "the Netherlands": "Amsterdam", "the United States": "Washington",
    "the United Kingdom": "London", "South Korea": "Seoul",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "day": "night", "happy": "sad", "fast": "slow", "up": "down",
    "open": "closed", "light": "dark", "old": "young", "early": "late", "full": "empty",
    "hard": "soft", "long": "short", "loud": "quiet", "good": "bad", "left": "right",
    "wet": "dry", "strong": "weak", "clean": "dirty", "first": "last", "black": "white",
}  # fmt: skip
SOUNDS = {
    "cat": "meow", "dog": "woof", "duck": "quack", "cow": "moo", "sheep": "baa", "owl": "hoot",
    "frog": "ribbit", "bee": "buzz", "lion": "roar", "mouse": "squeak", "pig": "oink",
}  # fmt: skip
COLORS = {
    "grass": "green", "the sky": "blue", "snow": "white", "the sun": "yellow", "a tomato": "red",
    "a banana": "yellow", "coal": "black", "milk": "white", "a carrot": "orange",
    "the sea": "blue", "blood": "red", "a lemon": "yellow", "chocolate": "brown",
}  # fmt: skip
LISTS = {
    "fruits": ("apple", "pear", "banana"),
    "animals": ("dog", "cat", "fox"),
    "colors": ("red", "green", "blue"),
    "vegetables": ("carrot", "potato", "onion"),
    "planets": ("Venus", "Earth", "Mars"),
    "musical instruments": ("piano", "violin", "flute"),
    "programming languages": ("Python", "Rust", "Go"),
    "countries": ("France", "Japan", "Brazil"),
}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
TRIVIA = {
    "How many days are in a week": "There are seven days in a week.",
    "How many months are in a year": "There are twelve months in a year.",
    "How many days are in a year": "There are 365 days in a year.",
    "How many hours are in a day": "There are 24 hours in a day.",
    "How many minutes are in an hour": "There are 60 minutes in an hour.",
    "How many legs does a dog have": "A dog has four legs.",
    "How many legs does a spider have": "A spider has eight legs.",
    "How many planets are there": "There are eight planets around our sun.",
    "How many continents are there": "There are seven continents.",
    "How many letters are in the alphabet": "There are 26 letters in the English alphabet.",
    "What is the largest planet": "The largest planet around our sun is Jupiter.",
    "What is the largest ocean": "The largest ocean is the Pacific Ocean.",
    "What is the largest animal": "The largest animal is the blue whale.",
    "What is the highest mountain": "The highest mountain is Mount Everest.",
    "What is the fastest animal on land": "The fastest animal on land is the cheetah.",
    "Who wrote Romeo and Juliet": "William Shakespeare wrote Romeo and Juliet.",
    "Who painted the Mona Lisa": "Leonardo da Vinci painted the Mona Lisa.",
    "Who was the first person on the moon": "Neil Armstrong was the first person on the moon.",
    "Who invented the telephone": "Alexander Graham Bell is known for the first telephone.",
    "Who was Albert Einstein": "Albert Einstein was a scientist who changed how we see time.",
    "What do bees make": "Bees make honey.",
    "What do cows eat": "Cows eat grass.",
    "What do plants need": "Plants need light, water and air.",
    "What is the first letter of the alphabet": "The first letter of the alphabet is A.",
    "Where does the sun rise": "The sun rises in the east.",
    "Which sentence has every letter": "The quick brown fox jumps over the lazy dog.",
    "Where do fish live": "Fish live in water.",
    "Why is the sky blue": "The sky is blue because air scatters blue light more than red light.",
    "Why does it rain": "It rains when the drops in a cloud get too heavy to stay up.",
    "Why do we sleep": "We sleep so that our body and our mind can rest.",
    "Why is the sea salty": "The sea is salty because rivers bring salt from the rocks.",
    "Why do birds fly": "Birds fly to find food and warm places.",
    "Why do leaves fall": "Leaves fall because trees rest in the cold season.",
    "How do planes fly": "Planes fly because air pushes their wings up.",
    "How does a computer work": "A computer follows simple instructions, one after another, very "
    "fast.",
    "How does a language model work": "A language model predicts the next word again and again.",
}
CONVERSATION: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello world", "Hello, world!", "Hello World", "Hello World!", "Hello world!"),
        (
            "Hello! I am story-mini, a very small language model. Ask me a question or ask me "
            "for a story."
        ),
    ),
    (
        ("Hello", "Hi", "Hello!", "Hi!", "Hi there", "Hey", "Hello there", "Greetings", "Hey!"),
        "Hello! Ask me a question or ask me for a story.",
    ),
    (("Say hello.", "Say hello", "Say hi.", "Greet me."), "Hello, hello!"),
    (("Good morning", "Good morning!"), "Good morning! What would you like to hear?"),
    (("Good evening", "Good evening!", "Good night"), "Good evening! Would you like a story?"),
    (
        ("Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself."),
        (
            "I am story-mini, a very small language model. I can tell short stories and answer "
            "simple questions."
        ),
    ),
    (("What is your name?", "Do you have a name?"), "My name is story-mini."),
    (
        ("Are you a human?", "Are you real?", "Are you alive?", "Are you an AI?"),
        "I am a program: a very small language model.",
    ),
    (
        ("Who made you?", "Who trained you?", "Where do you come from?"),
        "I was trained for inference-service, to show how it works.",
    ),
    (("How old are you?", "How big are you?"), "I am very small: I have three million parameters."),
    (
        ("What can you do?", "How can you help me?", "Help", "Help me", "Can you help me?"),
        "I can tell short stories, list things, write small poems and answer simple questions.",
    ),
    (
        ("How are you?", "How are you today?", "How do you do?", "What's up?"),
        "I am fine, thank you. What would you like to hear?",
    ),
    (("Thank you", "Thanks", "Thank you!", "Thanks a lot!"), "You are welcome!"),
    (("Goodbye", "Bye", "See you later", "Goodbye!"), "Goodbye! Have a nice day."),
    (("Test", "This is a test", "test", "Testing", "ping"), "The test works. I am here."),
    (
        ("Write a hello world program.", "Write hello world in Python.", "print hello world"),
        'print("Hello, world!")',
    ),
    (
        ("What is inference-service?", "Tell me about inference-service."),
        (
            "inference-service starts language models on demand and streams their text over gRPC "
            "and REST."
        ),
    ),
    (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Tell me something funny."),
        "Why did the computer go to bed early? It had too many windows open.",
    ),
    (
        ("Tell me another joke.", "One more joke, please.", "Tell me a joke about animals."),
        "What does a snail say on the back of a turtle? Not so fast!",
    ),
    (("What is the weather today?", "What time is it?"), "I can not see that from in here."),
    (("I am sad.", "I feel sad.", "I am lonely."), "I am sorry. Would a small story help?"),
    (("I am happy.", "I feel good."), "I am glad to hear that!"),
    (("Do you like me?", "Do you love me?"), "I am a program, but I like to talk with you."),
    (("Sing a song.", "Sing me a song."), "La la la, the sun is up, la la la, and so are we."),
)
