"""Plots about people: promises, parties, games, races and letters."""

from src.data.sources.generated.grammar import TemplateWriter
from src.data.sources.generated.stories.scaffold import write_encounter, write_musing
from src.data.sources.generated.stories.scenes import Plot, write_scenes


def _hide_and_seek(story: TemplateWriter) -> None:
    """Two children hide at stated places; the seeker tries one wrong place before finding each."""
    order = story.pick("\n\n«hero» found «first» first: ", "\n\n«hero» found «second» first: ")
    one, two = ("first", "second") if order == 0 else ("second", "first")
    story.write_template(f"«{one}.he» was still «spot_{one}» and «giggled|sneezed|coughed|tried not to laugh».")
    write_scenes(
        story, "Then «he» looked «wrong=SPOTS/place-spot_first-spot_second», but nobody was there.", write_musing
    )
    write_scenes(
        story, f'At last «he» «peeked|looked|crept» «spot_{two}». "I see you, «{two}»!" «called|cried|shouted» «hero».'
    )
    write_scenes(
        story, f"«^{one}» had been found first, so it was «{one}» who had to «count|seek|close «{one}.his» eyes» next."
    )


def _race(story: TemplateWriter) -> None:
    """A race with three places; the boaster never wins."""
    winner = story.pick("\n\nThe winner was «hero»! ", "\n\nThe winner was «friend»! ")
    second = "friend" if winner == 0 else "hero"
    first = "hero" if winner == 0 else "friend"
    story.write_template(
        f"«^{second}» came in second, and «rival» was last, «sad and tired|quite red in the face|as quiet as a mouse»."
    )
    write_scenes(story, f'"You were so «fast|good|quick», «{first}»," said «rival». "I will never «boast|brag» again."')
    write_scenes(story, f"The prize was a «prize=GIFTS», and «{first}» shared it with «{second}» and «rival».")


PEOPLE_PLOTS: dict[str, Plot] = {
    "promise": Plot(
        ("One day, «hero» made a promise.", "A promise is a promise, and this is what «hero» promised."),
        (
            """«friend=PEOPLE-hero» «was ill in bed|had a broken leg|had to stay at home» and felt «lonely|bored|sad».
            "I will bring you «treat=FOODS» and a «gift=GIFTS» on «when=DAYS»," said «hero». "I promise." «friend» «smiled|
            nodded|looked happy again» and «waited|counted the days|dreamed of it».""",
            write_musing,
            """¶ When «when» came, «tempter=PEOPLE-hero-friend» «knocked|was at the door|called». "Come to the
            «place=PLACES» with me!" «tempter.he» «said|begged|cried». "There is a «show=SHOWS»!" «hero» loved nothing more
            than a «show». «He» «thought about it for a long time|looked out of the window|bit «his» lip|was silent».""",
            (
                '"I cannot come," «he» said. "I gave my word to «friend»."',
                '"Not today," «he» said. "«friend» is waiting for me."',
                '"A promise is a promise," «he» said, "and mine is for «friend»."',
            ),
            """«tempter» «shrugged|frowned|was surprised», and «hero» packed the «treat» and the «gift».""",
            write_encounter,
            """¶ «friend» was «sitting by the window|already waiting|awake». "You came! And on «when», just as you
            promised!" They ate the «treat», and «friend» held the «gift» «with both hands|very carefully|up to the light».
            Then the door opened, and there was «tempter». "The «show» was «over|dull without you|not so good»,"
            «tempter.he» said. "May I stay?" So all three «played|laughed|sat» together.""",
        ),
    ),
    "birthday": Plot(
        ("It was almost the birthday of «hero».", "«hero» had saved coins all year to buy presents."),
        (
            """«He» «asked|visited» two friends what they liked. "I would love a «wish_a=GIFTS»," said «friend=PEOPLE-hero».
            "And I a «wish_b=GIFTS-wish_a»," said «other=PEOPLE-hero-friend». «hero» «remembered every word|wrote it down|
            nodded and smiled», for «he» had a plan.""",
            write_musing,
            """¶ In the shop of «seller=NEIGHBORS» there were «many things|shelves up to the roof|toys of all kinds».
            "A «wish_a» and a «wish_b», please," said «hero». "That makes «price=NUMBERS» coins," said «seller». «hero» «had
            just enough|counted them twice|gave all that «he» had».""",
            write_encounter,
            """¶ At the party there was «cake=FOODS» for everyone. "You are the one with a birthday," said «friend», "but
            there is a present for me?" It was the «wish_a»! And in the other box, «other» found the «wish_b». "You
            «remembered|listened|did not forget»!" they «cried|shouted|said». «seller» had sent a card: "For «hero», who
            spent «price» coins on friends." """,
        ),
    ),
    "hide and seek": Plot(
        ("«hero» wanted to play hide and seek", "It was the perfect day for hide and seek"),
        (
            """all over the «place=PLACES». «first=PEOPLE-hero» hid «spot_first=SPOTS/place», and «second=PEOPLE-hero-first»
            hid «spot_second=SPOTS/place-spot_first». «hero» closed «his» eyes and counted to «number=NUMBERS». "«number»!
            «Here I come|I am coming|Ready or not»!" «he» «called|shouted|sang».""",
            write_encounter,
            _hide_and_seek,
        ),
    ),
    "letter": Plot(
        ("One evening, «hero» wrote a letter to", "«hero» took a pen and began: Dear"),
        (
            """«elder=RELATIVES». «He» wrote about a «pet_seen=ANIMALS» «spot=GARDEN_SPOTS» and asked «one question|just one
            thing|only this»: "What do you do when you feel «feeling=FEELINGS»?" «He» drew a «color=COLORS» «drawn=ANIMALS-pet_seen» «on the back|in the corner|under it» and «posted|sent» the letter on «sent=DAYS».""",
            write_musing,
            "¶ «hero» «looked into the box|waited for the post|ran to the gate» every day.",
            write_encounter,
            """¶ After «days=NUMBERS» days, the answer came. "Dear «hero»," wrote «elder». "Your letter from «sent» made me
            «laugh|happy|smile». I hope that the «pet_seen» is still «spot», and the «color» «drawn» now hangs «over my bed|
            in my kitchen|on my door». When I feel «feeling», I «tip=TIPS». Try it!" «hero» «tried it at once|read it twice|
            folded the letter», and «really|indeed», it was hard to feel «feeling» after that.""",
        ),
    ),
    "race": Plot(
        ("There was going to be a race", "Once a year, all the children ran a race"),
        (
            """from «start=LANDMARKS» to «goal=LANDMARKS-start». "I am the fastest," said «rival=PEOPLE-hero». "Nobody can
            beat me." «friend=PEOPLE-hero-rival» «said nothing|tied «friend.his» shoes|looked at the ground». "We shall see
            when we get to «goal»," said «hero».""",
            write_encounter,
            """¶ They stood in a line «by|near|beside» «start». Ready, set, go! «rival» «raced|shot|flew» ahead. But halfway
            to «goal», «rival.he» «sat down for a rest|stopped to wave|went back for a lost shoe|took a nap». «hero» and
            «friend» kept «running|going», step by step.""",
            write_musing,
            _race,
        ),
    ),
    "new friend": Plot(
        ("There was somebody new at school.", "On the first day of school, a stranger sat at the back."),
        (
            """"My name is «friend=PEOPLE-hero»," said the new «friend.child», "and I come from «town=TOWNS»." Nobody said
            a word. At noon, «friend» sat alone «spot=PLAYGROUND_SPOTS» and had nothing to eat. «hero» had «lunch=FOODS». «He»
            «walked over|sat down too|smiled» and gave «friend.him» half.""",
            write_musing,
            """¶ "In «town», we play a game with «things=FRUITS»," said «friend», and showed how it went. «hero» lost
            «times=NUMBERS» times and «laughed|liked it|did not mind». «other=PEOPLE-hero-friend» came and wanted to play too.
            Soon the whole class was «spot».""",
            write_encounter,
            """¶ The next day, «hero» had forgotten «his» lunch. "Do you like «treat=FOODS-lunch»?" asked «friend». "You gave
            me half of your «lunch», so here is half of my «treat»." And «after «times» games|when the bell rang|on the way
            home», «friend» said, "I miss «town» a little less now." """,
        ),
    ),
}
