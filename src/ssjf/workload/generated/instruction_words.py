"""The vocabulary and the sentence templates of the small instruction language; data only.

How prompts and answers are built from them is in `ssjf.workload.generated.instructions`. Templates use the slots of
`str.format`.
"""

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)

VAGUE_COUNTS = {"a couple of": 2, "a few": 3, "some": 4, "several": 6, "a good number of": 9, "a dozen": 12}

CATEGORIES = {
    "fruits": "apple banana cherry grape lemon mango melon orange peach pear plum kiwi",
    "vegetables": "carrot onion potato pea bean cabbage leek pepper pumpkin",
    "animals": "fox owl bear whale mouse horse sheep frog tiger goose wolf rabbit camel",
    "trees": "oak pine birch maple willow cedar",
    "colours": "red blue green yellow brown white black grey pink purple",
    "tools": "hammer saw spade rope ladder knife needle brush",
    "instruments": "piano violin flute drum guitar trumpet harp",
    "jobs": "baker pilot farmer teacher doctor painter sailor miner cook tailor gardener",
    "cities": "Paris Rome Oslo Cairo Lima Delhi Tokyo Boston Madrid Vienna Lagos Sydney",
    "sports": "football tennis rowing running skating chess boxing",
    "flowers": "rose tulip daisy lily poppy violet",
    "drinks": "water tea coffee milk juice",
}

# animal: home, food, colour, character, size from 1 to 10
ANIMALS = {
    "fox": ("the forest", "mice", "red", "clever", 4),
    "owl": ("an old tree", "mice", "brown", "quiet", 3),
    "bear": ("the mountains", "honey", "black", "strong", 8),
    "whale": ("the sea", "small fish", "blue", "gentle", 10),
    "mouse": ("a small hole", "seeds", "grey", "shy", 1),
    "horse": ("the farm", "grass", "brown", "fast", 8),
    "sheep": ("the hills", "grass", "white", "calm", 6),
    "frog": ("the pond", "flies", "green", "lively", 2),
    "tiger": ("the jungle", "meat", "orange", "proud", 7),
    "goose": ("the lake", "grass", "white", "loud", 4),
    "wolf": ("the forest", "meat", "grey", "loyal", 6),
    "rabbit": ("the meadow", "carrots", "brown", "quick", 2),
    "camel": ("the desert", "dry leaves", "yellow", "patient", 9),
}

_OPPOSITES = (
    "hot-cold big-small fast-slow old-young dark-light happy-sad wet-dry "
    "high-low hard-soft rich-poor early-late near-far open-closed loud-quiet"
)
OPPOSITES = dict(pair.split("-") for pair in _OPPOSITES.split())

_SPELLING_WORDS = (
    "lantern garden river window castle bread winter mountain island feather market "
    "sun tree bridge candle village umbrella butterfly elephant ocean key thunderstorm"
)
SPELLING_WORDS = tuple(_SPELLING_WORDS.split())

# task: its steps, in order
TASKS = {
    "make tea": "boil the water|warm the pot|add the tea|pour the water|wait three minutes",
    "cook rice": "wash the rice|boil the water|add the rice and salt|cook it slowly|let it rest|stir it gently",
    "bake bread": (
        "weigh the flour|warm the water|add salt and yeast|mix everything well|knead the dough|let it rest for an hour|"
        "shape the loaf|heat the oven|bake it until it is brown|let it cool"
    ),
    "bake a cake": (
        "heat the oven|beat the eggs|add the sugar|melt the butter|add the flour|mix everything well|fill the form|"
        "bake it for an hour|let it cool|cover it with cream|decorate it with cherries"
    ),
    "wash a car": "close the windows|rinse the dust away|clean it with soap|rinse it again|dry it with a soft cloth",
    "plant a tree": (
        "choose a sunny place|dig a deep hole|loosen the earth|set the tree upright|fill the hole|press the earth down|"
        "water it well|tie it to a stick"
    ),
    "paint a wall": "move the furniture|cover the floor|clean the wall|stir the paint|paint the edges|paint the rest",
    "write a letter": "find paper and a pen|write the date|greet the reader|tell your news|sign your name|send it",
    "fix a bicycle": (
        "turn it upside down|take off the wheel|open the tyre|find the hole|clean the rubber|glue a patch on it|"
        "close the tyre|put the wheel back|pump it up|test the brakes"
    ),
    "boil an egg": "boil the water|put the egg in|wait six minutes|cool it with cold water",
    "tie a knot": "make a loop|pass the end through|pull it tight",
    "build a kite": (
        "choose two light sticks|tie them into a cross|cut the paper|glue the paper on|let it dry|tie a string to it|"
        "add a long tail|wait for wind"
    ),
}

STEP_DETAILS = (
    "Take your time, because a good start saves work later.",
    "It should look even on all sides before you go on.",
    "If something goes wrong here, simply do it again.",
    "This part needs a little care and a steady hand.",
    "Most people do this too quickly, so be patient.",
    "You will know that it is right when it feels easy.",
)

# topic: name of the hero, place, friend, the thing looked for, chapters of a story of ordinary length
STORIES = {
    "a dragon": ("Ember", "the black mountain", "a brave girl", "the lost crown", 9),
    "a kitten": ("Milo", "the little garden", "an old dog", "a warm bed", 3),
    "a pirate": ("Captain Rook", "the southern sea", "a wise parrot", "the golden map", 7),
    "a robot": ("Tick", "the silent city", "a small boy", "a new heart", 5),
    "a farmer": ("Anna", "the green valley", "a stubborn goat", "the missing plough", 3),
    "a wizard": ("Orlo", "the high tower", "a young student", "the book of stars", 8),
    "a snail": ("Pip", "the wet meadow", "a kind beetle", "a round leaf", 2),
    "a king": ("Edmund", "the northern castle", "a clever cook", "the silver sword", 6),
    "a lighthouse": ("old Martha", "the rocky coast", "a lost sailor", "a bright lamp", 4),
    "a train": ("Bruno", "the long valley", "a cheerful driver", "the last station", 4),
    "a ghost": ("Lady Grey", "the empty house", "a curious student", "a hidden letter", 5),
    "a bee": ("Zuzu", "the lavender field", "a lazy bear", "the sweetest flower", 2),
}

STORY_OPENING = "Once there was {topic} called {name} who lived near {place} and dreamed of {thing}."
STORY_CHAPTERS = (
    "One morning {name} left {place} early. The road was long, but the air was clear and the birds were singing.",
    "By the river {name} met {friend}. They shared some bread and promised to look for {thing} together.",
    (
        "Then a storm came over {place}. "
        "{name} and {friend} hid under a tree and told each other old tales until it passed."
    ),
    "An old woman gave them a riddle about {thing}. {name} thought about it for a whole night and smiled at dawn.",
    "The bridge was broken, so {friend} tied a rope and {name} climbed across. Nobody looked down.",
    "In the market they heard that {thing} had been sold. {name} was sad, but {friend} did not give up.",
    "A thief followed them through the fog. {name} heard the steps, turned around and asked him for help.",
    "They came to a door with three locks. {friend} opened the first, {name} the second, and the wind the third.",
    "Winter fell on {place} and the snow was deep. {name} lit a small fire and kept {friend} warm.",
    "In a dream {name} saw {thing} under a white stone. In the morning they began to dig.",
    "They found only a box with a note in it. Go back to {place}, it said, and look up.",
    "On the way home {friend} fell ill. {name} walked all night to find a doctor in the next village.",
    (
        "The people of the village gave a feast. "
        "{name} danced, {friend} sang, and for one evening nobody spoke of {thing}."
    ),
    "A great bird carried them over the hills. From above {place} looked as small as a coin.",
    "At the gate a guard asked for a song. {name} sang so badly that he laughed and let them in.",
)
STORY_ENDING = "At last {name} found {thing} and came home with {friend}. From that day on all was well at {place}."

# subject: sections of an ordinary guide, a tool, a place
SUBJECTS = {
    "gardening": (8, "a spade", "the garden"),
    "bees": (5, "a warm hive", "the meadow"),
    "sailing": (9, "a strong rope", "the harbour"),
    "chess": (6, "a good board", "the club"),
    "the moon": (3, "a telescope", "a dark field"),
    "cheese": (4, "a cool cellar", "the farm"),
    "music": (6, "an instrument", "the concert hall"),
    "painting": (7, "a soft brush", "the studio"),
    "rivers": (3, "a small boat", "the valley"),
    "cooking": (9, "a sharp knife", "the kitchen"),
    "snow": (2, "a warm coat", "the mountains"),
    "books": (5, "a quiet hour", "the library"),
}

GUIDE_SECTIONS = {
    "Beginning": "Everybody can start with {subject} today. All you need is {tool} and a little time.",
    "History": "People have cared about {subject} for hundreds of years. The oldest records were found near {place}.",
    "Tools": "Keep {tool} ready and clean. Cheap things break soon, so buy few but good ones.",
    "Places": "The best place to learn about {subject} is {place}. Go there early, when it is still quiet.",
    "People": "Ask those who know {subject} well. They like to answer, and they remember their own first mistakes.",
    "Costs": "At the beginning {subject} costs almost nothing. Later {tool} may need some money every year.",
    "Dangers": "Never hurry with {tool}. Most accidents around {place} happen when somebody is tired.",
    "Seasons": "In spring {subject} is full of surprises. In winter there is time to read and to repair things.",
    "Habits": "A few minutes every day are better than a long day once a month. Write down what you have learned.",
    "Mistakes": "Do not compare yourself with others. Every mistake with {tool} teaches you something about {subject}.",
    "Children": (
        "Children love {subject} if they may try it themselves. Let them hold {tool} and visit {place} with them."
    ),
    "Friends": "Share {subject} with a friend. Two people at {place} see more than one.",
    "Questions": "What is hard about {subject}? Which part do you like best? Good questions lead to good practice.",
    "Future": "Nobody knows what {subject} will be in a hundred years. But {place} will surely be part of it.",
}

MORNINGS = ("visit the museum", "walk along the river", "climb the old tower", "see the market", "take a boat tour")
NOONS = ("eat soup in a small cafe", "rest in the park", "try the local bread", "have a picnic by the water")
_EVENINGS = "listen to music|watch the sunset|write a postcard|dance in the square|sleep early|read a book"
EVENINGS = tuple(_EVENINGS.split("|"))
STAYS = {"a day": 1, "a weekend": 2, "a long weekend": 3, "a week": 7, "ten days": 10, "two weeks": 14, "a month": 28}

# theme: stanzas of a poem
POEMS = {"the sea": 4, "autumn": 3, "a candle": 1, "my mother": 5, "rain": 2, "the city": 3, "a rose": 1, "war": 6}
STANZAS = (
    (
        "I sing of {theme} in the morning light,\nof quiet hours and of the night,\n"
        "of all that stays and all that goes,\nand how it starts nobody knows."
    ),
    (
        "O {theme}, you are old and new,\nthe sky above is wide and blue,\nthe road is long, the wind is slow,\n"
        "and you have taught me what I know."
    ),
    (
        "When I was small I heard your name,\nand nothing after was the same,\nthe door was open, and the tree\n"
        "was talking in the dark to me."
    ),
    (
        "So stay with me a little while,\nthe days are many, mile by mile,\nand {theme} is the only song\n"
        "that I have carried all along."
    ),
)

# topic: rounds of an ordinary conversation
TALKS = {"the weather": 2, "money": 5, "a journey": 4, "supper": 3, "an old secret": 7}
TALK_LINES = (
    ("Good morning! Have you thought about {topic}?", "Yes, I have thought about it all night."),
    ("And what do you think now?", "I think that we should wait a little."),
    ("My brother says the same.", "Then your brother is a wise man."),
    ("But I am afraid of {topic}.", "There is no reason to be afraid, my friend."),
    ("You always know what to say.", "I have learned it from my work."),
    ("Will you come with me tomorrow?", "Of course, I will be there at eight."),
    ("Do you remember last year?", "How could I forget it? We laughed for days."),
    ("Then let us not speak of {topic} again.", "Agreed, let us have some tea instead."),
)
