"""Plots about things: lost, counted, broken, traded, grown, cooked."""

from src.data.sources.generated.grammar import TemplateWriter
from src.data.sources.generated.stories.scaffold import write_encounter, write_musing
from src.data.sources.generated.stories.scenes import Plot, write_scenes

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def _count(story: TemplateWriter) -> None:
    """Give some of the fruits to two others; subtraction gives the remaining number."""
    total = NUMBERS.index(story.draw("total", NUMBERS[7:], before=" ", after=" of them."))
    write_encounter(story)
    write_musing(story)
    write_scenes(story, "¶ Then «friend=PEOPLE-hero» «came along|opened the door|called from a window|walked by».")
    first = NUMBERS.index(story.draw("first", NUMBERS[2:5], before=' "You can have '))
    story.bind("rest", NUMBERS[total - first])
    write_scenes(story, """of my «fruit», if you like," said «hero». «friend» «smiled|was delighted|beamed|said thank you».
        Then there were «rest» «fruit» in the basket. ¶ «Soon after|A bit later|Near the bridge», «hero» met
        «second=NEIGHBORS», who had a «toothache|bad day|hungry baby|long way to go».""")  # fmt: skip
    second = NUMBERS.index(story.draw("gift", NUMBERS[1:3], before=" «^hero» gave «second.him» ", after=" more."))
    story.bind("rest", NUMBERS[total - first - second])
    write_scenes(
        story,
        "«At home|In the evening|Before supper», «hero» counted again: «rest» «fruit» were left.",
        (
            "That was not much, but «hero» did not mind at all.",
            "\"I had «total»,\" «he» said, \"and now I have two happy friends and «rest» «fruit».\"",
            "They «looked|tasted|were» better than all «total» of the morning.",
        ),
    )  # fmt: skip


THING_PLOTS: dict[str, Plot] = {
    "lost toy": Plot(
        (
            "On a «sunny|windy|warm|cool|bright» «morning|afternoon|day», «he» took",
            "«hero» wanted to play outside, so «he» took",
        ),
        (
            """«his» «color=COLORS» «toy=TOYS» and went to the «place=PLACES», where «he» «toy.used». Then
            «friend=PEOPLE-hero» came and «called|shouted|asked», "Do you want to «play tag|climb a tree|dig a hole|look
            for bugs» with me?" So «hero» put the «toy» down «spot=SPOTS/place» and «ran off|went along|forgot all about
            it|followed «friend.him»».""",
            write_encounter,
            write_musing,
            """¶ «When it was time to go home|Much later|After a while|When the sun went down», «hero» looked around.
            «Where was|Oh no! Where was|But where was» the «toy»? «hero» «began to cry|felt sad|was worried|had tears in
            «his» eyes». "I have lost my «color» «toy»!" «he» «said|cried|sobbed|wailed».""",
            (
                '"Think," said «friend». "Where did you have it last?"',
                '"Do not cry," said «friend». "We will look for it together."',
                '«friend» looked up and down the «place». "It is not here," «friend.he» said.',
            ),
            """They «looked|searched|tried» «wrong=SPOTS/place-spot», but «there was only|they just found|it was only»
            «an old shoe|a stone|a sleepy frog|a pile of leaves|a paper bag». Then «hero» remembered. «^he» ran to look
            «spot»«, and there was the «color» «toy»!|. The «toy» was still there!|. And there it was!» ¶
            "«Hooray|Thank you|You are a good friend|I will be more careful», «friend»," said «hero», and the two went
            «back|home|on» to «toy.use» «together|until it was dark|for the rest of the day».""",
        ),
    ),
    "counting": Plot(
        ("In the morning, «hero» filled a basket with", "«hero» was very good at counting. One day, «he» counted all"),
        ("«his» «fruit=FRUITS»: there were", _count),
    ),
    "broken": Plot(
        (
            "One rainy day, «hero» played ball in the house, although",
            "It was too cold to go out, so «hero» ran through the rooms, although",
        ),
        (
            """«elder=ELDERS» had said not to. Crash! The «broken=BREAKABLES» of «elder» «fell down and broke|was in
            pieces|broke into a hundred pieces». «hero» «was scared|felt cold|did not know what to do|held «his» breath».
            Nobody had seen it but the «witness=PETS». «Quickly|In a hurry|Quietly», «he» hid the pieces
            «hide=HIDINGS».""",
            'When «elder» came in, «elder.he» «asked|wanted to know», "Where is my «broken»?"',
            (
                """"The «witness» did it," said «hero». «elder» looked at the «witness», and the «witness»
                «witness.sound». "Bad «witness»!" said «elder» and «sent it out|put it outside|shut the door behind it».
                ¶ «hero» went out to think.""",
                """"I do not know," said «hero», and looked at «his» «feet|shoes|hands». The «witness» «witness.sound».
                ¶ With a heavy heart, «hero» went for a walk.""",
            ),
            write_encounter,
            write_musing,
            """But «he» could not «enjoy it|be happy|think of anything else». It was not right to let the «witness» take
            the blame. ¶ So «hero» went back to «elder» and «took|pulled|fetched» the pieces from «hide». "I «told a lie|
            was not honest|did a bad thing»," «he» said. "It was me who broke the «broken», and I am «sorry|very sorry|so
            sorry»." «elder» «was quiet for a moment|sighed|sat down». "Thank you for telling the truth," «elder.he» said.
            "A «broken» is only a thing." Together they «glued|put» the «broken» back together, and «hero» gave the
            «witness» a «big hug|treat|long pat» «and said sorry|because it was not its fault|behind the ears».""",
        ),
    ),
    "trade": Plot(
        ("«hero» had an old", "One day, «hero» took out an old"),
        (
            """«first=TOYS» and had nobody to play with. Then «friend=PEOPLE-hero» walked past with a «color=COLORS»
            «second=TOYS-first». "I like your «first»," said «friend». "Will you trade?" "«Yes|Why not|All right|Gladly»,"
            said «hero». Now «friend» had the «first» and «hero» had the «second».""",
            write_encounter,
            write_musing,
            """¶ «Later|Next|Soon|After that», «hero» met «other=PEOPLE-hero-friend», who had a «size=SIZES»
            «third=TREASURES». «other» looked at the «color» «second» and said, "I have always wanted to «second.use». Take
            my «third» for it!" So they traded, and «other.he» «second.used». ¶ Then there was a cry for help.
            «trouble=NEIGHBORS» was in trouble and needed a «third» to «third.use». "I have one!" called «hero». With the
            «third», «all was well again|it was easily done|they could help at once». "I have nothing but this «fourth=TOYS-first-second»," said «trouble». "It is yours." ¶ So in one day, the «first» had become a «color» «second», the
            «second» had become a «third», and the «third» had become a «fourth». "«What a good trade|I am rich now|And
            tomorrow, who knows»," said «hero».""",
        ),
    ),
    "seed": Plot(
        ("In spring, «elder=ELDERS» gave «hero» a", "«hero» found a paper bag in the shed. In it was a"),
        (
            """«seed=SEEDS» seed. «hero» «dug|made» a «small|deep|neat» hole «spot=GARDEN_SPOTS», put the «seed» seed in
            it, and poured «some|a cup of|a bucket of» water over it. "«Grow well|Sleep well|Be quick», little «seed»,"
            «he» said.""",
            (
                "The next day, nothing had happened.",
                "On the first morning, there was only mud.",
                "«hero» sat and waited, but nothing happened.",
            ),
            """«friend=PEOPLE-hero» «laughed|shook «friend.his» head|did not believe in it». "Nothing will ever grow
            there," «friend.he» said. But every «morning|evening» «hero» «came|went» out with water «in a red can|in a cup|
            in a big pot».""",
            write_musing,
            write_encounter,
            """¶ After «weeks=NUMBERS» weeks, a green tip came out of the ground «spot». It grew and grew. And when
            «summer|the warm time|August» came, there stood a «seed.crop»! «friend» «came to look|could not believe it|was
            amazed». "I was wrong," «friend.he» «said|admitted». "How did you do it?" "«Water|I waited|Just water», and
            «weeks» weeks «of waiting|of hope|without giving up»," said «hero».""",
        ),
    ),
    "soup": Plot(
        (
            "It was cold, and «hero» had only one thing in the kitchen:",
            "One evening the cupboard was empty, but for one thing:",
        ),
        (
            """some «one=VEGETABLES». "That makes no soup," «he» said, and went from house to house. ¶ At the first door,
            «anne=NEIGHBORS» «said|answered|told «him»», "All I have is «two=VEGETABLES-one»." "Bring it!" said «hero».""",
            """At the «next|second» door, «bert=NEIGHBORS-anne» «looked|peered» out. "There is just a bit of
            «three=VEGETABLES-one-two» left," «bert.he» said. "«Wonderful|Perfect|Come along»!" «said|cried» «hero».""",
            write_encounter,
            write_musing,
            """¶ Then «friend=PEOPLE-hero» came with a «color=COLORS» pot and some «four=VEGETABLES-one-two-three». They
            put it all in the pot: the «one» of «hero», the «two» of «anne», the «three» of «bert» and the «four» of
            «friend». «friend» stirred, and soon it «smelled wonderful|bubbled|was hot». Everybody had «two bowls|a full
            bowl|as much as they liked». "«Alone|By ourselves», we had almost nothing," said «anne». "Together we have
            soup!" said «bert».""",
        ),
    ),
}
