"""A seeded writer of small English texts: the whole training and held-out text of `tinylm`.

Every text is put together here from word lists and sentence patterns written for this project; nothing is
taken from elsewhere.  Only the standard library is used, and only `random.Random` methods whose sequence
Python documents as kept between versions or which rest on those (`random`, `choice`, `randint`, `shuffle`,
`sample`), so that the same seed gives the same bytes everywhere.

What a language model can learn from the text, from easy to hard, and why each kind is there:

* the patterns themselves (stories, letters, recipes, diaries, talk in a shop);
* fixed facts of a small world (what an owl says, where a baker works): they sit in the MLP weights, where
  rounding the weights shows first;
* carrying names, things and colours through a text and answering questions about it (attention);
* sums, counting and prices (exact answers from a few tokens), spelling and alphabetical order.
"""

import random

GIRLS = "Anna Clara Ella Flora Ida Lucy Mia Nora Olga Rosa Sara Vera".split()
BOYS = "Ben Carl Dan Finn Hugo Ivan Jack Leo Max Omar Tom Will".split()

COLOURS = "red blue green yellow white black brown grey orange purple pink golden silver".split()
MATERIALS = "wood stone glass paper wool iron clay straw silk leather".split()
ADJECTIVES = "old new small big heavy light round long soft shiny broken pretty strange plain tiny".split()
FEELINGS = "happy sad proud tired hungry afraid angry glad worried calm lonely curious sleepy".split()
TOYS = "ball kite doll drum boat train puzzle whistle top robot puppet balloon marble".split()
THINGS = ("key ring hat coat lamp cup book map bell box basket button brush candle clock coin comb feather flute "
          "glove hammer jar knife ladder letter mirror needle pen pencil picture pillow plate ribbon rope scarf "
          "shell shoe spoon stick umbrella watch").split()
# place -> the preposition it takes
PLACES = {"garden": "in", "kitchen": "in", "barn": "in", "forest": "in", "school": "at", "market": "at",
          "beach": "on", "hill": "on", "river": "by", "lake": "by", "bridge": "on", "library": "in",
          "tower": "in", "mill": "at", "station": "at", "park": "in", "harbour": "in", "attic": "in",
          "cellar": "in", "farm": "on", "island": "on", "church": "in", "museum": "in", "bakery": "in"}
SPOTS = ["under the bed", "behind the door", "on the shelf", "in the drawer", "under a leaf", "near the well",
         "behind the fence", "in the tall grass", "on the roof", "under the stairs", "beside the oven",
         "in a hollow tree", "between two rocks", "on the window sill", "inside a boot", "below the bench"]
VEHICLES = ["by train", "by bus", "by boat", "on foot", "by bicycle", "in a small car", "on a horse", "by tram"]
WEATHERS = {"sunny": "the sun shone all day", "rainy": "rain fell on the roofs", "windy": "the wind shook the trees",
            "snowy": "snow covered the fields", "foggy": "fog hid the street", "stormy": "thunder rolled over the hills",
            "cloudy": "grey clouds filled the sky", "hot": "even the cats looked for shade", "cold": "the pond was frozen"}
WEATHER_DOINGS = {
    "sunny": ["swam in the lake", "had a picnic", "washed the windows", "painted the fence"],
    "rainy": ["read a book", "played chess indoors", "baked a cake", "jumped in the puddles"],
    "windy": ["flew a kite", "sailed a toy boat", "hung out the washing", "chased a hat"],
    "snowy": ["built a snowman", "pulled a sledge", "threw snowballs", "fed the birds"],
    "foggy": ["stayed at home", "lit a lamp", "told ghost stories", "walked slowly"],
    "stormy": ["hid under a blanket", "closed all the doors", "counted the seconds after each flash"],
    "cloudy": ["worked in the garden", "went to the market", "drew a map", "mended a chair"],
    "hot": ["ate ice cream", "slept under a tree", "drank cold lemonade", "sat with wet feet"],
    "cold": ["drank hot tea", "knitted a scarf", "made a fire", "skated on the pond"]}
# animal -> legs, sound, food, home, size rank
ANIMALS = {
    "dog": (4, "woof", "bones", "a kennel", 6), "cat": (4, "meow", "fish", "a basket", 4),
    "cow": (4, "moo", "grass", "a barn", 10), "horse": (4, "neigh", "hay", "a stable", 11),
    "pig": (4, "oink", "turnips", "a sty", 8), "sheep": (4, "baa", "clover", "a fold", 7),
    "duck": (2, "quack", "weeds", "a pond", 3), "hen": (2, "cluck", "corn", "a coop", 3),
    "owl": (2, "hoot", "mice", "a hollow tree", 3), "frog": (4, "croak", "flies", "a ditch", 2),
    "mouse": (4, "squeak", "cheese", "a hole", 1), "bee": (6, "buzz", "nectar", "a hive", 0),
    "lion": (4, "roar", "meat", "a den", 9), "crow": (2, "caw", "worms", "a nest", 3),
    "snake": (0, "hiss", "eggs", "a burrow", 3), "wolf": (4, "howl", "rabbits", "a cave", 7),
    "goat": (4, "bleat", "leaves", "a shed", 7), "elephant": (4, "trumpet", "bananas", "the jungle", 12),
    "goose": (2, "honk", "seeds", "a pen", 4), "donkey": (4, "bray", "thistles", "a yard", 9)}
# food -> colour, taste, plural, where it grows or comes from
FOODS = {
    "apple": ("red", "sweet", "apples", "on a tree"), "lemon": ("yellow", "sour", "lemons", "on a tree"),
    "carrot": ("orange", "crisp", "carrots", "in the ground"), "plum": ("purple", "sweet", "plums", "on a tree"),
    "onion": ("white", "sharp", "onions", "in the ground"), "pea": ("green", "mild", "peas", "in a pod"),
    "cherry": ("red", "sour", "cherries", "on a tree"), "potato": ("brown", "plain", "potatoes", "in the ground"),
    "pear": ("green", "juicy", "pears", "on a tree"), "pepper": ("red", "hot", "peppers", "on a bush"),
    "grape": ("purple", "juicy", "grapes", "on a vine"), "leek": ("green", "strong", "leeks", "in the ground"),
    "tomato": ("red", "juicy", "tomatoes", "on a vine"), "radish": ("pink", "sharp", "radishes", "in the ground"),
    "berry": ("blue", "sweet", "berries", "on a bush"), "bean": ("green", "plain", "beans", "on a pole")}
# job -> place, tool, what they do
JOBS = {
    "baker": ("a bakery", "an oven", "bakes bread"), "farmer": ("a farm", "a plough", "grows wheat"),
    "teacher": ("a school", "a blackboard", "teaches children"), "doctor": ("a hospital", "a needle", "heals the sick"),
    "sailor": ("a ship", "a compass", "crosses the sea"), "tailor": ("a workshop", "a thimble", "sews coats"),
    "smith": ("a forge", "an anvil", "bends iron"), "miller": ("a mill", "a sack", "grinds corn"),
    "painter": ("a studio", "a brush", "paints pictures"), "cook": ("a kitchen", "a ladle", "makes soup"),
    "gardener": ("a garden", "a spade", "plants roses"), "fisher": ("a boat", "a net", "catches fish"),
    "barber": ("a shop", "a pair of scissors", "cuts hair"), "miner": ("a mine", "a pickaxe", "digs for coal"),
    "judge": ("a court", "a hammer", "hears both sides"), "shepherd": ("a meadow", "a staff", "watches the sheep")}
OPPOSITES = [("hot", "cold"), ("big", "small"), ("old", "young"), ("light", "dark"), ("fast", "slow"), ("wet", "dry"),
             ("full", "empty"), ("high", "low"), ("hard", "soft"), ("loud", "quiet"), ("open", "closed"), ("rich", "poor"),
             ("early", "late"), ("near", "far"), ("thick", "thin"), ("sweet", "bitter"), ("strong", "weak"), ("clean", "dirty"),
             ("first", "last"), ("up", "down"), ("left", "right"), ("day", "night"), ("summer", "winter"), ("friend", "enemy")]
IRREGULAR = [("mouse", "mice"), ("goose", "geese"), ("foot", "feet"), ("tooth", "teeth"), ("child", "children"), ("man", "men"),
             ("woman", "women"), ("knife", "knives"), ("leaf", "leaves"), ("wolf", "wolves"), ("sheep", "sheep"), ("ox", "oxen")]
PASTS = [("go", "went"), ("see", "saw"), ("eat", "ate"), ("run", "ran"), ("give", "gave"), ("take", "took"), ("find", "found"),
         ("make", "made"), ("write", "wrote"), ("sing", "sang"), ("swim", "swam"), ("buy", "bought"), ("think", "thought"),
         ("bring", "brought"), ("break", "broke"), ("fly", "flew"), ("know", "knew"), ("speak", "spoke"), ("walk", "walked"),
         ("play", "played"), ("look", "looked"), ("jump", "jumped")]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SEASON_OF = dict(zip(MONTHS, ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["autumn"] * 3 + ["winter"]))
ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen").split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
SKILLS = {"swim": "the lake", "whistle": "the meadow", "juggle": "the fair", "ride a bicycle": "the lane", "bake bread": "the bakery",
          "play the flute": "the choir", "climb trees": "the orchard", "knit": "the winter market", "read old maps": "the tower",
          "row a boat": "the harbour", "skate": "the frozen pond", "draw horses": "the art class", "sew": "the workshop"}
MORALS = ["A small friend can be a great help.", "Patience brings good things.", "It is better to share than to keep.",
          "Those who listen learn.", "A kind word costs nothing.", "Slow steps also reach the top.",
          "Do not trust a promise that is too sweet.", "Work first, and rest will taste better."]


# ---------------------------------------------------------------- small helpers

def words_of(n):
    """A number from 0 to 99 in words."""
    if n < 20:
        return ONES[n]
    return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")


def a(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def cap(s):
    return s[0].upper() + s[1:]


def many(n, one, plural=None):
    """`1 coin`, `3 coins`."""
    return "%d %s" % (n, one if n == 1 else plural or one + "s")


def verb(food, one, more):
    """The verb form that agrees with what an animal eats: hay is, mice are."""
    return more if food == "mice" or food.endswith("s") and food != "grass" else one


def listing(items):
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def at(place):
    return "%s the %s" % (PLACES[place], place)


class Person:
    """A name with its pronouns."""

    def __init__(self, name):
        self.name, girl = name, name in GIRLS
        self.they, self.them, self.their = ("she", "her", "her") if girl else ("he", "him", "his")


def people(r, n):
    return [Person(name) for name in r.sample(GIRLS + BOYS, n)]


def described(r, thing):
    """A thing with a colour or an adjective; the same words name it again later."""
    return "%s %s" % (r.choice(r.choice([COLOURS, ADJECTIVES])), thing)


# ---------------------------------------------------------------- stories

def opening(r, who, place):
    return r.choice([
        "Once there was a child called %s who lived %s." % (who.name, at(place)),
        "One %s %s was %s." % (r.choice(["morning", "evening", "afternoon"]), who.name, at(place)),
        "%s lived %s with %s %s." % (who.name, at(place), who.their, r.choice(["mother", "father", "aunt", "uncle", "brother", "sister"])),
        "On %s %s went to the %s %s." % (r.choice(DAYS), who.name, place, r.choice(["early", "late", "alone", "after lunch"])),
        "It was a %s day, and %s was %s." % (r.choice(list(WEATHERS)), who.name, at(place))])


def story_lost(r):
    hero, friend = people(r, 2)
    thing = described(r, r.choice(TOYS + THINGS))
    home, (first, second) = r.choice(list(PLACES)), r.sample(SPOTS, 2)
    out = [opening(r, hero, home)]
    out.append(r.choice([
        "%s had lost %s %s." % (cap(hero.they), hero.their, thing),
        "But where was the %s? %s could not find it." % (thing, hero.name),
        "%s looked for %s %s everywhere." % (cap(hero.they), hero.their, thing)]))
    out.append("%s felt %s." % (hero.name, r.choice(["sad", "worried", "angry", "lonely"])))
    out.append(r.choice(['"Have you seen my %s?" %s asked %s.', '"I need my %s," %s said to %s.']) % (thing, hero.they, friend.name))
    out.append(r.choice(['"No, but I will help you," said %s.', '"Let us look together," said %s.', '"Not today," said %s, "but two see more than one."']) % friend.name)
    out.append("They looked %s, but it was not there." % first)
    out.append(r.choice(["Then they looked %s.", "At last %s looked %%s." % friend.name]) % second)
    out.append("There was the %s!" % thing)
    out.append(r.choice([
        '"Thank you, %s," said %s.' % (friend.name, hero.name),
        "%s gave %s %s." % (hero.name, friend.name, a(r.choice(list(FOODS)))),
        "%s was %s again, and they walked home." % (hero.name, r.choice(["happy", "glad", "calm"]))]))
    if r.random() < 0.5:
        out += questions(r, [("Who lost the %s?" % thing, hero.name), ("Who helped?", friend.name),
                             ("Where was the %s?" % thing, cap(second)), ("Where did they look first?", cap(first))])
    return " ".join(out)


def questions(r, pairs):
    return ["Question: %s Answer: %s." % p for p in r.sample(pairs, r.randint(1, 2))]


def story_learn(r):
    hero, friend = people(r, 2)
    skill = r.choice(list(SKILLS))
    out = [opening(r, hero, r.choice(list(PLACES))), "%s wanted to learn to %s." % (hero.name, skill)]
    out.append(r.choice(["The first try went badly.", "At first it was too hard.", "On the first day nothing worked."]))
    out.append(r.choice(['"I will never learn it," said %s.', '"This is not for me," said %s.']) % hero.name)
    out.append("But %s, who could %s very well, said: %s" % (friend.name, skill, r.choice(['"Try again, but slower."', '"Watch me and do the same."', '"Nobody can do it on the first day."'])))
    n = r.randint(2, 9)
    out.append("So %s tried every day for %s weeks." % (hero.they, words_of(n)))
    out.append("After %s weeks %s could %s." % (words_of(n), hero.name, skill))
    out.append("Now everyone at %s knows %s." % (SKILLS[skill], hero.them))
    out.append(r.choice(["%s thanked %s with all %s heart." % (hero.name, friend.name, hero.their), r.choice(MORALS), "%s was proud, and %s was proud too." % (hero.name, friend.name)]))
    return " ".join(out)


def story_fable(r):
    one, two = r.sample(list(ANIMALS), 2)
    _, sound, food, home, _ = ANIMALS[one]
    _, sound2, food2, home2, _ = ANIMALS[two]
    out = ["%s lived in %s." % (cap(a(one)), home)]
    out.append(r.choice(["Every day it ate %s." % food, "It loved %s more than anything." % food, "There %s always %s for dinner." % (verb(food, "was", "were"), food)]))
    out.append('One day %s came by. "%s," said the %s. "I am %s. Do you have any %s?"' % (a(two), cap(sound2), two, r.choice(["hungry", "cold", "lost", "tired"]), food2))
    if r.random() < 0.5:
        out.append('"%s," said the %s. "I have only %s, but you may stay."' % (cap(sound), one, food))
        out.append("So the %s stayed, and in the morning it brought the %s to %s." % (two, one, home2))
        out.append("There they found %s and %s, and they shared it all." % (food2, food))
    else:
        out.append('"%s," said the %s. "Go away! My %s %s mine."' % (cap(sound), one, food, verb(food, "is", "are")))
        out.append("So the %s went back to %s." % (two, home2))
        out.append("When the winter came, the %s had no %s left, and nobody came to help." % (one, food))
    out.append(r.choice(MORALS))
    return " ".join(out)


def story_trip(r):
    hero, friend = people(r, 2)
    start, end = r.sample(list(PLACES), 2)
    weather, how = r.choice(list(WEATHERS)), r.choice(VEHICLES)
    thing = described(r, r.choice(THINGS))
    out = ["In %s %s and %s went from the %s to the %s %s." % (r.choice(MONTHS), hero.name, friend.name, start, end, how)]
    out.append("It was %s: %s." % (weather, WEATHERS[weather]))
    out.append("%s carried %s and %s carried %s." % (hero.name, a(thing), friend.name, a(r.choice(list(FOODS)))))
    job = r.choice(list(JOBS))
    out.append("On the way they met %s who %s." % (a(job), JOBS[job][2]))
    out.append("%s %s they %s." % (cap(PLACES[end]), "the " + end, r.choice(WEATHER_DOINGS[weather])))
    out.append(r.choice(["They came back after %s days." % words_of(r.randint(2, 12)), "In the evening they went back %s." % how,
                         "%s left the %s there and had to come back for it." % (hero.name, thing)]))
    if r.random() < 0.5:
        out += questions(r, [("How did they go?", cap(how)), ("Where did they go?", "To the " + end),
                             ("Who carried the %s?" % thing, hero.name), ("What was the weather?", cap(weather))])
    return " ".join(out)


# ---------------------------------------------------------------- passages with questions

def owners(r):
    """Who has what, where; then questions. Answers can only come from the passage."""
    group = people(r, r.randint(2, 4))
    things, colours = r.sample(TOYS + THINGS, len(group)), r.sample(COLOURS, len(group))
    rooms = r.sample(list(PLACES), len(group))
    lines = ["%s has %s %s and is %s." % (p.name, a(c), t, at(place)) for p, t, c, place in zip(group, things, colours, rooms)]
    r.shuffle(lines)
    for _ in range(r.randint(1, 4)):
        i = r.randint(0, len(group) - 1)
        lines.append("Q: " + r.choice([
            "Who has the %s? A: %s." % (things[i], group[i].name),
            "What does %s have? A: %s %s." % (group[i].name, cap(a(colours[i])), things[i]),
            "Where is %s? A: %s." % (group[i].name, cap(at(rooms[i]))),
            "What colour is the %s? A: %s." % (things[i], cap(colours[i])),
            "Who is %s? A: %s." % (at(rooms[i]), group[i].name)]))
    return "\n".join(lines)


def room(r):
    place = r.choice(["kitchen", "bedroom", "workshop", "hall", "shop", "classroom", "cabin"])
    big, left, right, top = r.sample(THINGS, 4)
    colour, other = r.sample(COLOURS, 2)
    stuff = r.choice(MATERIALS)
    out = ["The %s is %s and %s." % (place, r.choice(["small", "large", "narrow", "quiet", "bright"]), r.choice(["warm", "cool", "clean", "dusty", "tidy"])),
           "In the middle stands a table made of %s." % stuff,
           "On the table there is %s %s." % (a(colour), big),
           "Left of the %s is %s, and right of it %s." % (big, a(left), a(right)),
           "Above hangs %s %s." % (a(other), top)]
    if r.random() < 0.7:
        out += questions(r, [("What is on the table?", cap(a(colour)) + " " + big), ("What is right of the %s?" % big, cap(a(right))),
                             ("What is left of the %s?" % big, cap(a(left))), ("What is the table made of?", cap(stuff)),
                             ("What colour is the %s?" % top, cap(other))])
    return " ".join(out)


def portrait(r):
    who, = people(r, 1)
    job = r.choice(list(JOBS))
    place, tool, does = JOBS[job]
    pet, food = r.choice(list(ANIMALS)), r.choice(list(FOODS))
    name = r.choice(["Spot", "Coco", "Bella", "Pip", "Rex", "Luna", "Tiny", "Duke"])
    return " ".join([
        "%s is %s." % (who.name, a(job)),
        "%s works in %s and %s." % (cap(who.they), place, does),
        "For this %s needs %s." % (who.they, tool),
        "%s has %s hair and wears %s %s." % (cap(who.they), r.choice(["brown", "black", "red", "grey", "white"]), a(r.choice(COLOURS)), r.choice(["coat", "hat", "scarf", "apron"])),
        "At home %s has %s called %s, which eats %s." % (who.they, a(pet), name, ANIMALS[pet][2]),
        "%s likes %s because they are %s." % (who.name, FOODS[food][2], FOODS[food][1])])


def facts(r):
    """Questions about the fixed facts of the small world."""
    out = []
    for _ in range(r.randint(2, 6)):
        animal, food, job = r.choice(list(ANIMALS)), r.choice(list(FOODS)), r.choice(list(JOBS))
        legs, sound, eats, home, size = ANIMALS[animal]
        other = r.choice([x for x in ANIMALS if abs(ANIMALS[x][4] - size) > 1])
        bigger = animal if size > ANIMALS[other][4] else other
        day, month = r.randint(0, 6), r.randint(0, 11)
        pair = r.choice(OPPOSITES)[::r.choice([1, -1])]
        one, two = r.choice(IRREGULAR)
        now, then = r.choice(PASTS)
        out.append("Q: %s A: %s." % r.choice([
            ("What does %s say?" % a(animal), cap(sound)),
            ("What does %s eat?" % a(animal), cap(eats)),
            ("Where does %s live?" % a(animal), "In " + home),
            ("How many legs does %s have?" % a(animal), cap(words_of(legs))),
            ("Which is bigger, %s or %s?" % (a(animal), a(other)), "The " + bigger),
            ("What colour is %s?" % a(food), cap(FOODS[food][0])),
            ("How does %s taste?" % a(food), cap(FOODS[food][1])),
            ("Where does %s grow?" % a(food), cap(FOODS[food][3])),
            ("Where does %s work?" % a(job), "In " + JOBS[job][0]),
            ("What does %s need?" % a(job), cap(JOBS[job][1])),
            ("Who %s?" % JOBS[job][2], "The " + job),
            ("Which day comes after %s?" % DAYS[day], DAYS[(day + 1) % 7]),
            ("Which day comes before %s?" % DAYS[day], DAYS[day - 1]),
            ("Which month comes after %s?" % MONTHS[month], MONTHS[(month + 1) % 12]),
            ("In which season is %s?" % MONTHS[month], "In " + SEASON_OF[MONTHS[month]]),
            ("What is the opposite of %s?" % pair[0], cap(pair[1])),
            ("One %s, two what?" % one, cap(two)),
            ("Today I %s. And yesterday?" % now, "Yesterday I " + then)]))
    return "\n".join(out)


def riddle(r):
    animal = r.choice(list(ANIMALS))
    legs, sound, eats, home, _ = ANIMALS[animal]
    hints = ["I have %s legs." % (words_of(legs) if legs else "no"), 'I say "%s".' % sound, "I eat %s." % eats, "I live in %s." % home]
    r.shuffle(hints)
    return " ".join(hints[:r.randint(2, 4)] + ["What am I? I am %s." % a(animal)]) if r.random() < 0.6 else job_riddle(r)


def job_riddle(r):
    job = r.choice(list(JOBS))
    place, tool, does = JOBS[job]
    hints = ["You find me in %s." % place, "I need %s." % tool]
    r.shuffle(hints)
    return " ".join(hints + ["Who am I? I am the %s who %s." % (job, does)])


# ---------------------------------------------------------------- numbers

def sums(r):
    """Plain sums, one kind to a text so that the kind need not be guessed each time."""
    kind, out = r.choice("+++--*"), []
    for _ in range(r.randint(3, 7)):
        if kind == "*":
            x, y = r.randint(2, 10), r.randint(2, 10)
            z = x * y
        else:
            x, y = r.randint(1, 30), r.randint(1, 20)
            x, y = (x, y) if kind == "+" else (max(x, y), min(x, y))
            z = x + y if kind == "+" else x - y
        out.append("%d %s %d = %d" % (x, kind, y, z))
    return "\n".join(out)


def sums_in_words(r):
    x, y = r.randint(1, 20), r.randint(1, 20)
    return "%s and %s make %s." % (cap(words_of(x)), words_of(y), words_of(x + y)) + (
        " So %d + %d = %d." % (x, y, x + y) if r.random() < 0.6 else "")


def story_sum(r):
    one, two = people(r, 2)
    thing = r.choice([v[2] for v in FOODS.values()] + [t + "s" for t in ("ball", "coin", "shell", "pencil", "button", "ribbon", "marble")])
    x, y = r.randint(3, 30), r.randint(2, 20)
    if r.random() < 0.5:
        return ("%s has %d %s. %s gives %s %d more. How many %s does %s have now? %d + %d = %d, so %s has %d %s." %
                (one.name, x, thing, two.name, one.them, y, thing, one.name, x, y, x + y, one.name, x + y, thing))
    x += y
    does = r.choice(["loses", "sells", "gives away", "drops"])
    return ("%s has %d %s and %s %d of them. How many %s are left? %d - %d = %d, so %d %s left." %
            (one.name, x, thing, does, y, thing, x, y, x - y, x - y, "is" if x - y == 1 else "are"))


def counting(r):
    step, n = r.choice([1, 2, 3, 4, 5, 10]), r.randint(5, 9)
    start = r.randint(0, 20)
    row = [start + i * step for i in range(n)]
    if r.random() < 0.3:
        row.reverse()
        return "Count down by %d from %d: %s." % (step, row[0], ", ".join(map(str, row)))
    if r.random() < 0.3 and row[-1] < 100:
        return "Count by %s from %s: %s." % (words_of(step), words_of(start), ", ".join(map(words_of, row)))
    return "Count by %d from %d: %s." % (step, start, ", ".join(map(str, row)))


def shop(r):
    buyer, seller = people(r, 2)
    food = r.choice(list(FOODS))
    plural = FOODS[food][2]
    price, count = r.randint(2, 9), r.randint(2, 9)
    paid = price * count
    out = ['"Good %s, %s," said %s. "How much is %s?"' % (r.choice(["morning", "evening", "day"]), seller.name, buyer.name, a(food)),
           '"%s coins," said %s.' % (cap(words_of(price)), seller.name),
           '"I will take %s %s."' % (words_of(count), plural),
           '"That makes %s times %s, so %s coins."' % (words_of(count), words_of(price), words_of(paid))]
    if r.random() < 0.5:
        more = r.randint(1, 99 - paid)
        out.append('%s gave %s coins and got %s back.' % (buyer.name, words_of(paid + more), words_of(more)))
    out.append(r.choice(['"Thank you," said %s.' % buyer.name, "The %s were %s." % (plural, FOODS[food][1]), '"Come again," said %s.' % seller.name]))
    return "\n".join(out)


def clock(r):
    who, = people(r, 1)
    hour, length = r.randint(1, 12), r.randint(1, 6)
    doing = r.choice(["walk to the mill", "read the book", "clean the attic", "bake the cake", "draw the map", "mend the roof"])
    end = (hour + length - 1) % 12 + 1
    return ("It is %s o'clock. %s needs %s to %s. When will %s be ready? At %s o'clock." %
            (words_of(hour), who.name, words_of(length) + (" hour" if length == 1 else " hours"), doing, who.they, words_of(end)))


# ---------------------------------------------------------------- letters, lists, spelling

def letter(r):
    writer, reader = people(r, 2)
    place, weather = r.choice(list(PLACES)), r.choice(list(WEATHERS))
    gift, animal = described(r, r.choice(THINGS + TOYS)), r.choice(list(ANIMALS))
    return "\n".join([
        "Dear %s," % reader.name,
        "I am %s now, and it is %s: %s." % (at(place), weather, WEATHERS[weather]),
        r.choice(["Yesterday I %s." % r.choice(WEATHER_DOINGS[weather]), "I saw %s and heard it %s." % (a(animal), ANIMALS[animal][1]),
                  "I feel %s, but I think of you." % r.choice(FEELINGS)]),
        r.choice(["Thank you for the %s. It is in my room." % gift, "I am sending you %s. Please keep it well." % a(gift)]),
        r.choice(["See you on %s." % r.choice(DAYS), "I will be home in %s." % r.choice(MONTHS), "Write soon."]),
        r.choice(["Your friend", "Yours", "With love"]) + ", " + writer.name])


def recipe(r):
    one, two = r.sample(list(FOODS), 2)
    dish, n, m = r.choice(["soup", "pie", "salad", "stew"]), r.randint(2, 9), r.randint(1, 4)
    last = {"soup": "Boil everything for %d minutes." % (5 * r.randint(2, 8)), "pie": "Bake the pie for %d minutes." % (5 * r.randint(4, 10)),
            "salad": "Mix well and add a little oil.", "stew": "Cook slowly for %s." % many(r.randint(1, 4), "hour")}[dish]
    steps = ["Wash %s." % many(n, one, FOODS[one][2]), "Cut the %s into %s pieces." % (FOODS[one][2], r.choice(["small", "thin", "big"])),
             "Add %s and %s of salt." % (many(m, two, FOODS[two][2]), r.choice(["a spoon", "a pinch", "two pinches"])), last, r.choice(["Serve it hot.", "Serve it with bread.", "Let it rest."]) if dish != "salad" else "Serve it cold."]
    return "How to make %s %s:\n" % (one, dish) + "\n".join("%d. %s" % (i + 1, s) for i, s in enumerate(steps))


def diary(r):
    who, = people(r, 1)
    first, out = r.randint(0, 6), []
    for i in range(r.randint(2, 5)):
        weather = r.choice(list(WEATHERS))
        out.append("%s was %s. %s %s." % (DAYS[(first + i) % 7], weather, cap(who.they) if i else who.name, r.choice(WEATHER_DOINGS[weather])))
    return " ".join(out)


def spelling(r):
    word = r.choice(TOYS + THINGS + list(PLACES) + list(ANIMALS) + list(FOODS) + list(JOBS))
    kind = r.randint(0, 2)
    if kind == 0:
        return 'The word "%s" has %d letters: %s.' % (word, len(word), ", ".join(word))
    if kind == 1:
        return 'The word "%s" begins with %s and ends with %s.' % (word, word[0], word[-1])
    return 'Spell "%s": %s.' % (word, "-".join(word.upper()))


def ordering(r):
    pool = r.choice([TOYS + THINGS, list(ANIMALS), list(FOODS), GIRLS + BOYS])
    items = r.sample(pool, r.randint(3, 5))
    return "Put in order: %s. In order: %s." % (", ".join(items), ", ".join(sorted(items)))


def same_list(r):
    """A list to be said again forwards or backwards: pure copying."""
    items = r.sample(COLOURS + TOYS + THINGS, r.randint(3, 6))
    who, = people(r, 1)
    if r.random() < 0.5:
        return "%s says: %s. Say it again: %s." % (who.name, listing(items), listing(items))
    return "%s says: %s. Say it backwards: %s." % (who.name, listing(items), listing(items[::-1]))


KINDS = [(story_lost, 10), (story_learn, 7), (story_fable, 9), (story_trip, 9), (owners, 14), (room, 8), (portrait, 7),
         (facts, 18), (riddle, 6), (sums, 12), (sums_in_words, 4), (story_sum, 8), (counting, 4), (shop, 6), (clock, 4),
         (letter, 7), (recipe, 6), (diary, 6), (spelling, 4), (ordering, 3), (same_list, 8)]
WRITERS = [f for f, n in KINDS for _ in range(n)]


def document(r):
    """One text of a random kind."""
    return r.choice(WRITERS)(r)


def sections(seed):
    """Endless sections: mostly one document, sometimes a few with blank lines between.

    Both occur so that the model ends a lone text with the end token, yet also reads a plain file of many
    texts (as the held-out one is) as something familiar.
    """
    r = random.Random(seed)
    while True:
        count = 1 if r.random() < 0.7 else r.randint(2, 6)
        yield [document(r) for _ in range(count)]


if __name__ == "__main__":
    import itertools
    import sys
    for part in itertools.islice(sections(int(sys.argv[1]) if len(sys.argv) > 1 else 0), 40):
        print("\n\n".join(part) + "\n-----")
