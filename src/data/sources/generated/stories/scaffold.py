"""The parts of every story around its plot: a hero with one fact, encounters, and an ending."""

from src.data.sources.generated.grammar import TemplateWriter, make_odds
from src.data.sources.generated.stories.scenes import prose, vary, vary_tail, write_scenes

OPENINGS = (
    "Once upon a time, there was a «trait=TRAITS» «kid=KIDS» named «hero=PEOPLE/kid». «hero.He» lived near the "
    "«home=HOMES».",
    "In a little house near the «home=HOMES»« lived| there lived|, there was once» a «trait=TRAITS» «kid=KIDS» "
    "«named|called» «hero=PEOPLE/kid».",
    "Long ago, near the «home=HOMES», «lived|there lived» a «trait=TRAITS» «kid=KIDS» «named|called» "
    "«hero=PEOPLE/kid».",
    "Once there lived a «trait=TRAITS» «kid=KIDS» near the «home=HOMES». «kid.He» was called «hero=PEOPLE/kid».",
    "This is a story about «hero=PEOPLE», a «trait=TRAITS» «hero.child» «from the house|who lived|from» near the "
    "«home=HOMES».",
    "Do you know «hero=PEOPLE»? «hero.He» was a «trait=TRAITS» «hero.child» and lived near the «home=HOMES».",
)
FACTS = {
    "food": (
        "«He» loved «food=FOODS» «more than any other food|best of all|so much that «he» even dreamed about it»"
        "«.| and could eat it every day.| and ate it whenever there was some.|, hot or cold.»",
        "«That evening|For dinner|At home|When it got dark», there «was a big plate of|was a whole bowl of|was plenty "
        "of» «food» on the table«, and nobody ate more than «hero».|, because everybody knew what «hero» loved.|. What "
        "a feast!»",
    ),
    "pet": (
        "«He» had a «petcolor=COLORS» «pet=PETS» «named|called» «petname=PETNAMES», and «the two were always together|"
        "«petname» followed «him» everywhere|they did everything together|«he» took good care of it».",
        "«At home,|Back at home,|At the door,|When «hero» came home,» «petname» «pet.sound» and «pet.move». "
        '«The «pet» had waited all day.|"I missed you too," said «hero» to the «pet».|«hero» told the «petcolor» «pet» '
        "all about it.»",
    ),
    "wear": (
        "«He» never went out without «his» «wearcolor=COLORS» «wear=CLOTHES»«. It had been a present from Grandma.|, "
        "not even in summer.|, and people knew «him» by it.|, day or night.»",
        "«That night|At bedtime|Before bed|In the evening», «hero» hung the «wearcolor» «wear» «on its hook|over the "
        "chair|next to the bed|on the door» and «fell asleep at once|smiled|thought about the day|yawned».",
    ),
    "skill": (
        "All that week, «he» had tried to learn how to «skill=SKILLS», but «it never worked|it was too hard|it always "
        "went wrong|everybody laughed».",
        "«And guess what?|And the best thing?|Then something funny happened.|And that same evening,» «hero» "
        "«skill.did»«! It worked at last.|! Nobody laughed now.|, just like that.|. It was not so hard after all.»",
    ),
    "wish": (
        "Every night, «he» wished for a «wish=GIFTS», «but it cost too much|but «he» told nobody|and looked up at the "
        "stars|but it never came».",
        "«When «hero» came home,|The next morning,|On the kitchen table|Under the pillow» there was a «wish»! "
        '«"You have earned it," said Mom.|"My wish came true!" cried «hero».|Nobody ever said who had put it there.»',
    ),
    "age": (
        "«hero» was only «age=NUMBERS» years old«, but wanted to know everything.|, and very proud of it.|, but tall "
        "already.|, the youngest in the street.»",
        '«"Not bad for|"That is a lot for|"Quite a day for|"You are very wise for» somebody who is only «age»," '
        "«said Dad.|said Mom.|laughed Grandma.|said the neighbors.»",
    ),
    "day": (
        "It was a «day=DAYS», and «he» had «nothing to do|a whole free day|no plans at all|been awake since sunrise».",
        "«Ever since,|From then on,|Years later,|And so» «day» was the day that «hero» liked best«.|, and now you know "
        "why.|, rain or shine.| of all the days in the week.»",
    ),
}
"""The fact of the opening about the hero, and the sentences of the ending that repeat it."""

ENCOUNTERS: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    (
        "For a while it was quiet, and «nobody was about|a soft wind was blowing|far away a bell rang|a clock was ticking».",
        "",
    ),
    (
        "Suddenly a «creature=ANIMALS» «creature.move» «out of the grass|across the "
        'path|right up to «him»». "I am so hungry," it said. «hero» gave it «all|half|some» of «his» «lunch=FOODS», and '
        "the «creature» said it would never forget that.",
        "And what «waited|stood|sat» «at the gate|on the doorstep|by the door»? It was the «creature» that had eaten "
        "the «lunch»! It «creature.sound» «softly|twice|with joy|a little» and gave «hero» a «return=TREASURES» «as a thank-you|"
        "to keep|from its home».",
    ),
    (
        "Along the way, «hero» found a «size=SIZES» «found=TREASURES» and put it in «his» bag.",
        "Then «hero» remembered the «size» «found» in «his» bag. It belonged to «owner=NEIGHBORS», who "
        "«had looked for it everywhere|nearly cried for joy|laughed out loud».",
    ),
    (
        "It began to «rain|snow|drizzle», so «hero» waited under a «roof|tree|bridge» with a «wet|cold|shivering» "
        "«creature=ANIMALS». They told each other stories «until it was over|for an hour|and became friends».",
        "In the evening the «creature» «came|called» by, because it wanted to hear one more story.",
    ),
    (
        "Behind a window stood «neighbor=NEIGHBORS» with a sad face, for «neighbor.his» «lostpet=PETS» had run away. "
        '"I will keep my eyes open," said «hero». ',
        "And there, «by the well|under the hedge|on the steps|behind the fence», sat the «lostpet»! «hero» «carried|"
        "took|brought» it home to «neighbor», and «neighbor.he» was «overjoyed|so grateful|happy again».",
    ),
    (
        "To pass the time, «hero» «sang|hummed|whistled» a «song about|little song about|tune about» a «singer=ANIMALS» that loved "
        "«meal=FOODS».",
        "All the way home, «hero» «sang|hummed|whistled» the song about the «singer» and the «meal» again.",
    ),
    (
        '"The «color_a=COLORS» «thing_a=TOYS» is for «one=PEOPLE-hero», the «color_b=COLORS» «thing_b=TOYS-thing_a» for «two=PEOPLE-hero-one» and the '
        '«color_c=COLORS» «thing_c=TOYS-thing_a-thing_b» for «three=PEOPLE-hero-one-two»," said «keeper=NEIGHBORS», who was packing gifts.',
        (
            'Then «keeper» asked, "Who gets the «color_a» «thing_a»?" "«one»," «hero» «answered|said» «at once|without thinking».',
            'Then «keeper» asked, "Who gets the «color_b» «thing_b»?" "«two»," «hero» «answered|said» «at once|without thinking».',
            'Then «keeper» asked, "Who gets the «color_c» «thing_c»?" "«three»," «hero» «answered|said» «at once|without thinking».',
        ),
    ),
    (
        "A little wind came and «took|stole|blew away» «his» «glove|hat|cap|handkerchief». It landed «drop=LANDMARKS_AT», "
        "too far away to reach.",
        "On the way back, the wind had turned: what had landed «drop» now lay «right at «his» feet|in the grass|in "
        "front of the house».",
    ),
)
"""An encounter on the way, and its outcome at the end of the story."""

MUSINGS = (
    "The «q1=QUALITIES» «n1=NATURE» «move=MOVES».",
    "Was the «n1=NATURE» «q1=QUALITIES»? No, it was «q2=QUALITIES-q1».",
    "A «n1=NATURE» «move=MOVES» «side=SIDES» the «n2=NATURE-n1».",
    "It smelled of «smell1=SMELLS» and «smell2=SMELLS-smell1».",
    "Somewhere a «q1=QUALITIES» «animal1=ANIMALS» was «doing1=DOINGS».",
    "There was a «color1=COLORS» «n1=NATURE» and a «q1=QUALITIES» «n2=NATURE-n1».",
    "What a «q1=QUALITIES», «q2=QUALITIES-q1» «n1=NATURE»!",
    "Two «q1=QUALITIES» «fruit1=FRUITS» lay «side=SIDES» the «n1=NATURE».",
    "Could a «n1=NATURE» be «doing1=DOINGS»?",
    "Here it was «q1=QUALITIES», and the «n1=NATURE» «move=MOVES».",
    "Even the «q1=QUALITIES» «animal1=ANIMALS» was «doing1=DOINGS» «side=SIDES» the «n1=NATURE».",
    "Once, the «n1=NATURE» had been «q1=QUALITIES», «q2=QUALITIES-q1» and full of «smell1=SMELLS».",
    "If only the «n1=NATURE» were a «animal1=ANIMALS», thought «hero», and the «n2=NATURE-n1» a «q1=QUALITIES» "
    "«n3=NATURE-n1-n2»!",
)
"""Remarks with many different words that have no consequences in the story."""

MUSING_ENDS = (
    "But that is another story.",
    "«hero» shook «his» head and went on.",
    "So the time went by.",
    "«He» «yawned|smiled|stretched|sighed» and thought no more of it.",
)
LESSONS = (
    "«hero» «felt|went to bed|walked home|was|fell asleep» «happy|proud|glad|tired but happy|warm inside».",
    "It had been «a good day|a long day|quite a day|the best day of the year».",
    "Back in the little house near the «home», «everything was quiet|the lamp was lit|the fire was warm|the kitchen "
    "smelled good».",
    "Everyone said that «hero» was a «trait» «hero.child».",
)


def write_opening(story: TemplateWriter) -> str:
    """Write the opening, bind `hero` and the pronouns, and return the fact that was drawn."""
    story.pick(*map(prose, OPENINGS))
    for form in ("he", "him", "his", "He", "His", "self"):
        story.bind(form, story.slots[f"hero.{form}"])
    story.writer.write(" ")
    return list(FACTS)[story.pick(*(vary_tail(prose(fact)) for fact, _ in FACTS.values()))]


def write_encounter(story: TemplateWriter) -> None:
    """Write an encounter on the way; `write_ending` writes its outcome."""
    story.writer.write(" ")
    story.bind("encounter", str(story.pick(*(vary_tail(prose(encounter)) for encounter, _ in ENCOUNTERS))))


def write_musing(story: TemplateWriter) -> None:
    """Write one or more remarks."""
    n_sentences = 0
    while True:
        ends = MUSING_ENDS if n_sentences else ()
        weights = (1.0,) * len(MUSINGS) + (0.8,) * len(ends)
        story.writer.write(" ")
        if story.pick(*MUSINGS, *ends, odds=make_odds(weights)) >= len(MUSINGS):
            return
        n_sentences += 1


def write_ending(story: TemplateWriter, fact: str) -> None:
    """Write the ending: the outcome of the encounter, a closing sentence, and the fact of the opening."""
    story.writer.write(" ")
    _, outcome = ENCOUNTERS[int(story.slots["encounter"])]
    if isinstance(outcome, tuple):
        story.pick(*map(prose, outcome))
    elif outcome:
        story.write_template(vary(prose(outcome)))
    if outcome:
        story.write_template(" ")
    story.pick(*map(prose, LESSONS))
    write_scenes(story, FACTS[fact][1])
