"""Long journeys: a number of days is stated at the start and determines the end.

Facts from before the journey are needed after it, up to about two thousand tokens later: the hero's fact, the
encounter, and the number of days.
"""

from src.data.sources.generated.grammar import TemplateWriter, make_odds
from src.data.sources.generated.stories.scaffold import write_musing
from src.data.sources.generated.stories.scenes import vary

STAYS = ("So the day went by.", "It grew late.", "The sun was low now.", "Much had happened since the morning.")
LEAVES = "The next morning, «hero» left with «guide=RELATIVES» for a journey of"
LEAVES_ODDS = make_odds((1.0, 1.6, 1.2, 1.1, 1.1))
"""One story in six has a journey."""

N_DAYS = {"three": 3, "five": 5, "eight": 8, "twelve": 12, "sixteen": 16, "twenty": 20}
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
    "twentieth",
)  # fmt: skip

DAYS = (
    "they «passed|reached|slept beside|rested near» a «q1=QUALITIES» «n1=NATURE».",
    "it rained, and they «stayed|waited|played games» in a «q1=QUALITIES» barn.",
    "a «q1=QUALITIES» «animal1=ANIMALS» followed them «for a mile|until noon|for hours».",
    "the road was «steep|muddy|long|empty».",
)
DAY_ODDS = make_odds((3.0, 2.0, 2.0, 2.0, 1.0))
"""The odds of `DAYS`, then of the reminder of the fact."""

REMINDERS = {
    "food": "«hero» wished for some «food».",
    "pet": "«hero» missed «petname».",
    "wear": "«hero» was glad of the «wearcolor» «wear».",
    "skill": "«hero» tried again to «skill», but it was no use.",
    "wish": "«hero» saw a «wish» in a dream.",
    "age": '«hero» said, "I am «age» years old, I can walk that far."',
    "day": '«hero» asked, "Will we be back on «day»?"',
}
"""Reminders of the fact of the opening during the journey."""


def write_journey(story: TemplateWriter, fact: str) -> None:
    """Write the transition to the ending: usually one sentence, sometimes a journey."""
    story.writer.write("\n\n")
    if story.pick(LEAVES, *STAYS, odds=LEAVES_ODDS) > 0:
        return
    length = story.draw("length", tuple(N_DAYS), before=" ", after=" days.")
    for day in range(N_DAYS[length]):
        story.writer.write(f"\n\nOn the {ORDINALS[day]} day, ")
        story.pick(*map(vary, DAYS), REMINDERS[fact], odds=DAY_ODDS)
        write_musing(story)
    story.writer.write("\n\n")
    story.write_template(
        "Then the «length» days were over, and «guide» «brought «hero» home|said goodbye|went home, too»."
    )
