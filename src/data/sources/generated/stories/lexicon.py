"""The words of the stories: people, animals, things and places, the most frequent first."""

from src.data.sources.generated.grammar import Forms, Lexicon

SHE: Forms = {"he": "she", "him": "her", "his": "her", "He": "She", "His": "Her", "self": "herself", "child": "girl"}
HE: Forms = {"he": "he", "him": "him", "his": "his", "He": "He", "His": "His", "self": "himself", "child": "boy"}


def _gendered(forms: Forms, words: str) -> dict[str, Forms]:
    return {word.replace("_", " "): forms for word in words.split()}


def _table(columns: str, *rows: str) -> Lexicon:
    """Make a lexicon of rows `word, form, form ...`, the forms named by the columns."""
    names = columns.split()
    cells = [[cell.strip() for cell in row.split(",")] for row in rows]
    assert all(len(row) == len(names) + 1 for row in cells), columns
    return Lexicon({row[0]: dict(zip(names, row[1:], strict=True)) for row in cells})


def _words(text: str) -> Lexicon:
    return Lexicon(word.strip() for word in text.split(","))


_GIRLS = _gendered(SHE, "Lily Mia Sue Anna Zoe Rosie Nora Daisy Lucy Ruby Clara Ella Ivy Kitty Hazel Penny Wendy June")
_BOYS = _gendered(HE, "Tom Ben Sam Max Tim Leo Jack Finn Oscar Hugo Peter Noah Felix Owen Billy Charlie Freddy Rob")
_PEOPLE = {name: forms for pair in zip(_GIRLS.items(), _BOYS.items(), strict=True) for name, forms in pair}
_ELDERS = {
    "Mom": SHE, "Grandma": SHE, "Dad": HE, "Grandpa": HE, "Aunt Maggie": SHE, "Uncle Joe": HE, "Aunt Poppy": SHE,
    "Uncle Walter": HE,
}  # fmt: skip
_NEIGHBORS = _gendered(SHE, "Mrs._Brown Mrs._Green Mrs._Hill Mrs._Field Mrs._Rivers") | _gendered(
    HE, "Mr._Baker Mr._Stone Mr._Woods Mr._Miller Mr._Kettle"
)

LEXICONS: dict[str, Lexicon] = {
    "KIDS": Lexicon({"girl": SHE, "boy": HE}),
    "PEOPLE": Lexicon(_PEOPLE),
    "PEOPLE/girl": Lexicon(_GIRLS),
    "PEOPLE/boy": Lexicon(_BOYS),
    "ELDERS": Lexicon(_ELDERS),
    "RELATIVES": Lexicon({name: forms for name, forms in _ELDERS.items() if name not in ("Mom", "Dad")}),
    "NEIGHBORS": Lexicon(_NEIGHBORS),
    "TRAITS": _words("kind, brave, clever, cheerful, quiet, curious, gentle, funny, shy, busy, proud, dreamy"),
    "HOMES": _words("river, forest, sea, mill, market, lake, old bridge, windy hill, apple farm, castle, station"),
    "COLORS": _words("red, blue, yellow, green, white, purple, pink, brown, black, golden, silver, gray"),
    "SIZES": _words("big, little, tiny, large, round, shiny, soft, new, pretty, fine, heavy, funny"),
    "NUMBERS": _words("three, four, five, six, seven, eight, nine, ten"),
    "DAYS": _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "FOODS": _words(
        "pancakes, cherry pie, noodles, honey bread, strawberries, tomato soup, cheese, plum cake, corn, "
        "peach jam, carrots, potatoes, rice pudding, waffles, melon, warm muffins, nuts, yogurt"
    ),
    "PETNAMES": _words("Biscuit, Pepper, Mochi, Shadow, Button, Cookie, Ginger, Waffles, Snowy, Bubbles, Toffee, Dot"),
    "PETS": _table(
        "sound move",
        "dog, barked, wagged its tail",
        "cat, meowed, purred",
        "puppy, yapped, jumped up and down",
        "kitten, mewed, rolled on its back",
        "pony, neighed, shook its mane",
        "parrot, squawked, flapped its wings",
        "goose, honked, ran in a circle",
        "goat, bleated, hopped on its thin legs",
    ),
    "CLOTHES": _table(
        "part", "hat, head", "scarf, neck", "coat, back", "ribbon, arm", "cloak, back", "pair of boots, feet"
    ),
    "SKILLS": _table(
        "did",
        "whistle, whistled a whole song",
        "swim, swam like a fish",
        "juggle, juggled three plums",
        "ride a bike, rode once around the house",
        "tie a bow, tied a perfect bow",
        "stand on one leg, stood on one leg and counted to twenty",
        "play the flute, played the flute for everyone",
        "count to a hundred, counted all the way to a hundred",
    ),
    "TOYS": _table(
        "use used",
        "ball, bounce it, bounced it up and down",
        "kite, fly it, flew it high in the sky",
        "doll, comb its hair, combed its hair",
        "toy boat, sail it, sailed it across a puddle",
        "toy truck, push it around, pushed it around the floor",
        "drum, beat it, beat it with two sticks",
        "teddy bear, hug it, hugged it tight",
        "robot, wind it up, wound it up again and again",
        "whistle, blow it, blew it until the birds answered",
        "spinning top, spin it, spun it on the table",
        "music box, listen to it, listened to its song",
        "puppet, make it dance, made it dance",
        "bucket, fill it with sand, filled it with sand",
        "jump rope, jump with it, jumped with it all day",
    ),
    "TREASURES": _table(
        "use",
        "key, open the door",
        "lantern, light the path",
        "bell, call the others",
        "rope, climb up",
        "map, find the way",
        "feather, tickle the giant",
        "mirror, catch the sunlight",
        "spoon, stir the pot",
        "net, catch the fish",
        "blanket, keep everyone warm",
        "basket, carry the fruit",
        "ladder, reach the window",
    ),
    "PLACES": _table(
        "at to",
        "park, in the park, to the park",
        "garden, in the garden, into the garden",
        "beach, on the beach, to the beach",
        "forest, in the forest, into the forest",
        "playground, on the playground, to the playground",
        "farm, on the farm, to the farm",
        "market, at the market, to the market",
        "meadow, in the meadow, to the meadow",
    ),
    "SPOTS/park": _words("under the long bench, behind the fountain, beside the swan pond, near the iron gate"),
    "SPOTS/garden": _words(
        "behind the rose bush, under the apple tree, next to the water barrel, between the pumpkins"
    ),
    "SPOTS/beach": _words("behind the tall rock, under the old pier, beside the sand castle, near the blue boat"),
    "SPOTS/forest": _words(
        "under the giant oak, inside the hollow log, beside the mossy stone, near the little stream"
    ),
    "SPOTS/playground": _words("under the slide, beside the swings, behind the wooden horse, near the sand box"),
    "SPOTS/farm": _words("behind the hay, under the cart, next to the pig pen, near the duck pond"),
    "SPOTS/market": _words(
        "under the cheese table, behind the flower stand, beside the fish cart, near the clock tower"
    ),
    "SPOTS/meadow": _words("among the poppies, under the willow, beside the ant hill, behind the stone wall"),
    "ANIMALS": _table(
        "move sound home",
        "rabbit, hopped, squeaked, under the hedge",
        "squirrel, scampered, chattered, in the hazel tree",
        "fox, trotted, yelped, behind the hill",
        "duck, waddled, quacked, in the reeds",
        "frog, leaped, croaked, beside the pond",
        "hedgehog, shuffled, sniffed, under the dry leaves",
        "turtle, crawled, hummed, beside the warm stones",
        "mouse, scurried, peeped, in the barn wall",
        "crow, flapped, cawed, on top of the tower",
        "beaver, paddled, grunted, below the dam",
        "mole, dug, mumbled, under the lawn",
        "deer, stepped, snorted, deep in the ferns",
        "badger, marched, growled, among the roots",
        "swan, glided, hissed, on the small island",
    ),
    "FRUITS": _words("apples, pears, plums, cherries, shells, marbles, cookies, nuts, buns, flowers, stamps, stickers"),
    "GROCERIES": _words(
        "milk, eggs, bread, butter, flour, salt, rice, beans, sugar, tea, apples, lemons, soap, candles"
    ),
    "VEGETABLES": _words("carrots, onions, potatoes, peas, cabbage, mushrooms, leeks, beans, parsley, garlic, turnips"),
    "SEEDS": _table(
        "crop",
        "sunflower, tall yellow sunflower",
        "pumpkin, fat orange pumpkin",
        "bean, long green bean plant",
        "radish, row of red radishes",
        "melon, sweet round melon",
        "poppy, bed of red poppies",
        "lavender, sea of purple lavender",
    ),
    "GIFTS": _words(
        "book about the stars, box of paints, pair of skates, wooden train, toy castle, bag of marbles, warm scarf, "
        "silver flute, jar of honey, paper lantern, magnet, puzzle, yo-yo, snow globe"
    ),
    "BREAKABLES": _words("blue vase, tea pot, tall lamp, flower pot, glass bowl, white plate, window, picture frame"),
    "HIDINGS": _words(
        "under the bed, behind the stove, under the rug, inside a boot, behind the curtain, under a bush"
    ),
    "MAGIC_A": _words("bibble, hocus, tumble, zim, wobble, snicker, lolly, rumpel, fizzy, moony"),
    "MAGIC_B": _words("bop, pocus, tockle, zam, noodle, snap, pipple, doodle, fuzzle, beams"),
    "LANDMARKS": _words(
        "the crooked tree, the stone bridge, the old mill, the quiet pond, the red barn, the tall tower, the dark cave, "
        "the white fence, the sleeping well, the berry bushes"
    ),
    "LANDMARKS_AT": _words(
        "on the roof of the barn, in the top of a tree, on a small island, behind the high wall, on the church tower"
    ),
    "FEARS": _table(
        "where",
        "the dark, down the dark cellar steps",
        "deep water, across the deep blue lake",
        "thunder, through the storm",
        "high places, up the tall ladder",
        "big dogs, past the big dog of the miller",
        "the attic, up to the creaky attic",
    ),
    "TIPS": _words(
        "count slowly to ten, hum a happy song, think of warm pancakes, hold a smooth stone, take five deep breaths, "
        "squeeze both thumbs, whisper a funny rhyme, walk with tiny steps"
    ),
    "PARTS": _words("ear, paw, leg, foot, knee, shoulder"),
    "SHOWS": _words("puppet show, circus, parade, magic show, boat race, dance, fire show, dog show, concert"),
    "FEELINGS": _words("lonely, sad, bored, angry, afraid, jealous, tired, nervous, grumpy, shy"),
    "TOWNS": _words(
        "Maple Bay, Stone Harbor, Little Creek, Summer Hill, Long Valley, Fern Island, Winter Falls, Owl Point"
    ),
    "TIMES": _words("once, twice, three times, four times, five times, seven times"),
    "INSIDES": _words(
        "a garden full of fireflies, a room full of clocks, a lake of milk, a staircase to the clouds, a tree with "
        "silver apples, a library of tiny books, a field of talking flowers, a ship without a captain"
    ),
    "HOARDS": _words(
        "old coins, glass beads, a silver ring, letters from a pirate, seven buttons, a broken watch, wooden soldiers"
    ),
    "TREES": _words("oak, pine tree, chestnut tree, birch, cherry tree, walnut tree, fir"),
    "BOXES": _words("shoe box, basket, hat box, drawer, bowl, cake tin"),
    "QUALITIES": _words(
        "plain, small, big, long, quiet, warm, cold, dark, bright, soft, tall, green, wild, thin, round, sleepy, wet, "
        "strange, gentle, dusty, crooked, shiny, sweet, lonely, deep, pale, yellow, narrow, wide, proud, golden, rusty, heavy, hidden, sunny,"
        " foggy, broken, hungry, lazy, noisy, smooth, hollow, merry, dry, gray, sharp, silver, secret, frozen, polite,"
        " mossy, bitter, purple, clumsy, famous, weary, peaceful, stormy, rosy, fresh, faded, bumpy, humble"
    ),
    "NATURE": _words(
        "tree, wind, river, cloud, hill, path, flower, stone, house, bird, leaf, sky, field, bridge, road, moon, grass, "
        "fence, pond, roof, star, shadow, boat, wall, valley, branch, well, mountain, candle, window, chimney, wagon, garden, "
        "lantern, kettle, ladder, puddle, meadow, feather, bucket, thunder, pebble, rainbow, shelf, tunnel, carpet, "
        "clock, bench, mirror, snowflake, pinecone, pillow, barrel, drum, nest, thistle, harbor, mushroom, cradle, broom"
    ),
    "DOINGS": _words(
        "singing, sleeping, dancing, swimming, eating, climbing, laughing, digging, jumping, flying, waiting, dreaming, "
        "knitting, snoring, baking, sneezing, painting, reading, hiding, whistling, fishing, limping, cooking, "
        "yawning, sweeping, juggling, counting, marching, gardening, whispering, skating, rowing, sewing, shivering"
    ),
    "MOVES": _words(
        "stood, waited, slept, shone, moved, turned, rested, sang, whispered, danced, lay still, glittered, trembled, "
        "leaned over, smiled, hummed, glowed, swayed, creaked, dozed, looked back, disappeared, "
        "rattled, fell asleep, rolled by, dripped, blinked, sparkled, grew, shook, drifted past, crumbled, rustled, froze"
    ),
    "SMELLS": _words(
        "grass, rain, smoke, roses, bread, mud, apples, honey, wood, soap, hay, mint, lemons, snow, pepper, wool, salt, "
        "cinnamon, candles, fish, leather, tar, violets, vanilla, onions, chalk, ink, moss, cheese"
    ),
    "SIDES": _words("beside, under, above, behind, near, beyond, between the clouds and, inside"),
}
LEXICONS["GARDEN_SPOTS"] = LEXICONS["SPOTS/garden"]
LEXICONS["PLAYGROUND_SPOTS"] = LEXICONS["SPOTS/playground"]
