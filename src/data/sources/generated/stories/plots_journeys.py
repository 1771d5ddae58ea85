"""Plots about journeys: errands, rescues, riddles, maps and fears."""

from src.data.sources.generated.grammar import TemplateWriter
from src.data.sources.generated.stories.scaffold import write_encounter, write_musing
from src.data.sources.generated.stories.scenes import Plot, write_scenes

COUNTS = ("three", "four", "five", "six")


def _deliver(story: TemplateWriter) -> None:
    """List things and their recipients, then hand them over in another order, so that the list predicts each thing."""
    count = 3 + COUNTS.index(story.draw("parcels", COUNTS, before=" There were ", after=" parcels:"))
    for i in range(count):
        things, people = ("".join(f"-{slot}{j}" for j in range(i)) for slot in ("thing", "person"))
        after = "." if i == count - 1 else " and" if i == count - 2 else ","
        story.write_template(f" a «thing{i}=TOYS{things}» for «person{i}=PEOPLE-hero{people}»{after}")
    write_encounter(story)
    left = list(range(count))
    while left:
        write_musing(story)
        story.writer.write("\n\n")
        i = left.pop(story.pick(*(f"«person{i}» «was at home|came to the door|stood at the gate»." for i in left)))
        write_scenes(story, f'"This is for you," said «hero», and gave «person{i}.him» the «thing{i}».')
        write_scenes(story, f"«person{i}» «laughed|said thank you|could not believe it|jumped for joy».")
    write_scenes(story, "Not one of the «parcels» parcels had gone to the wrong door.")


JOURNEY_PLOTS: dict[str, Plot] = {
    "parcels": Plot(
        (
            "The postman was ill, so «hero» took the parcels around.",
            "For one day, «hero» was allowed to bring the post.",
        ),
        (_deliver,),
    ),
    "errand": Plot(
        ("«hero» was sent to the shop.", "The kitchen was empty, and «hero» was old enough to go shopping."),
        (
            """"Please bring «a=GROCERIES», «b=GROCERIES-a», «c=GROCERIES-a-b» and «d=GROCERIES-a-b-c»," said
            «elder=ELDERS». "«^a», «b»," «he» «said|sang|whispered» to «self» on the way, "«c», «d».\"""",
            write_encounter,
            """¶ At the shop, «seller=NEIGHBORS» asked, "What will it be?" "«^a», «b» and «c»," said «hero», "and one more
            thing, but what was it?" «He» «scratched «his» head|closed «his» eyes|thought hard|counted on «his» fingers».""",
            write_musing,
            """"Was it «e=GROCERIES-a-b-c-d»?" asked «seller». "No, it was «d»!" cried «hero».""",
            """¶ At home, «elder» looked into the bag. "«^a», «b», «c» and «d»," «elder.he» said. "You have forgotten
            nothing. «Well done|Thank you|What a memory»!" """,
        ),
    ),
    "magic word": Plot(
        ("Deep in the hills there was a gate that nobody could open.", "«hero» had heard of a door with no key."),
        (
            """An old «guide=ANIMALS» knew the secret. "Bring me «food_gift=FOODS», and I will tell you," it «said|answered|told «him»|replied». «hero» did, and the «guide» whispered, "The word is «one=MAGIC_A»-«two=MAGIC_B». Say it
            «times=TIMES», and never say it to «foe=NEIGHBORS».\"""",
            write_musing,
            write_encounter,
            """¶ On the way, «hero» met «foe». "Tell me the magic word, and I will give you a «bribe=GIFTS»," said «foe».
            «hero» «shook «his» head|said no|ran past|put a hand over «his» mouth». "Not even for a «bribe»," «he» said.""",
            """¶ There was the gate, «tall and dark|covered with leaves|cold as ice|made of iron». «hero» «took a deep breath|stood still|came close». "«^one»-«two»," «he» said, «times», and the gate «opened|swung open|began to move».""",
            """Behind it was «inside=INSIDES». "«Oh|Look|How lovely»!" said «hero». «He» went back and told the «guide»
            all about it over some more «food_gift», and «foe» never «learned|heard|found out» that the word was
            «one»-«two».""",
        ),
    ),
    "map": Plot(
        ("In the attic, «hero» found an old map.", "Between two books, «hero» found a map with a cross on it."),
        (
            """"From the house to «a=LANDMARKS»," it said, "then to «b=LANDMARKS-a», then to «c=LANDMARKS-a-b», and dig
            «steps=NUMBERS» steps from there." «friend=PEOPLE-hero» «brought|had|carried» a spade, and off they went.""",
            write_encounter,
            """¶ First they came to «a». It was «quiet|cold|windy|lovely» there. Then they «walked|climbed|marched» on to
            «b».""",
            write_musing,
            """At last they saw «c». "«^steps» steps," said «hero», and counted them. They dug and dug, and «hit|found|there
            was» a «color=COLORS» box! In it «lay|they found» «treasure=HOARDS».""",
            """¶ "It is yours," said «friend», "for you had the map." "No, it is ours," said «hero».""",
            """They took the box home the other way round: from «c» to «b», from «b» to «a», and from «a» back to the
            house.""",
        ),
    ),
    "lost pet": Plot(
        ("There was a sign on a tree.", "«hero» read a note on the wall."),
        (
            """"Lost," it said. "A «color=COLORS» «animal=PETS» with one «patch=COLORS-color» «part=PARTS». Its name is
            «called=PETNAMES». Please bring it to «owner=NEIGHBORS»." "I will find it," said «hero», and set out.""",
            write_encounter,
            """¶ «hero» looked «in the barn|near the well|along the fence» and saw a «wrong=COLORS-color» «animal». But it had
            no «patch» «part», so it «could not be|was not» «called».""",
            write_musing,
            """¶ «Then|At noon|Late in the day» something moved near the «place=PLACES», «spot=SPOTS/place». It was «color»,
            and one «part» was «patch»! "«called»?" said «hero», and the «animal» «animal.sound» and «animal.move». «hero»
            «carried|led|took» it to «owner», who «hugged|kissed|petted» the «animal» «again and again|and cried for joy|for
            a long time». "I found «called» «spot»," said «hero». "Take these «reward=FRUITS»," said «owner».""",
        ),
    ),
    "little bird": Plot(
        (
            "After the storm, a baby bird lay on the ground.",
            "«hero» heard a tiny voice. It was a bird that had fallen.",
        ),
        (
            """Its wing was hurt. High up in the «tree=TREES», «hero» saw the nest. «He» made a bed in a «color=COLORS»
            «box=BOXES» and fed the bird with «crumbs=FOODS». «He» called it «called=PETNAMES».""",
            write_musing,
            """¶ Every day, «called» grew «stronger|bigger|louder». After «weeks=NUMBERS» weeks it «flapped|hopped|flew»
            around the room. "It wants to stay with us," said «friend=PEOPLE-hero». But «hero» knew that it did not belong in
            a «box».""",
            write_encounter,
            """¶ «Sadly|Slowly|Early one day», «he» carried the «color» «box» back to the «tree» and opened it. «called»
            «looked at «him»|sang once|waited a moment» and flew up to the nest. And each «morning|evening», when «hero» put
            some «crumbs» under the «tree», a bird came down and sang. "«Hello|Good day|There you are», «called»," said
            «hero».""",
        ),
    ),
    "fear": Plot(
        (
            "There was one thing that «hero» did not like at all:",
            "Everybody is afraid of something. For «hero», it was",
        ),
        (
            """«fear=FEARS». "When I am afraid, I «tip=TIPS»," said «elder=ELDERS». "«Try it|It helps|You can do it,
            too»." «hero» «did not believe it|nodded slowly|was not so sure».""",
            write_musing,
            """¶ Then the «lost=PETS» of «friend=PEOPLE-hero» was in trouble. It had run «fear.where» and did not come back.
            «friend» «wept|was in tears|called and called». Somebody had to go «fear.where».""",
            write_encounter,
            """¶ «hero»'s knees shook. «^fear»! Then «he» remembered what «elder» had said: "«^tip»." «He» did it once, and
            again, and went «fear.where». It was not so bad. And there was the «lost»! It «lost.sound» and «lost.move».
            "You «are|were» so brave," said «friend». "No," said «hero», "I was afraid. But I know what to do: «tip».\"""",
        ),
    ),
}
