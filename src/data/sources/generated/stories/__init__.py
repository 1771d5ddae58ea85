"""Little stories: an opening that introduces a hero and one fact, a plot, sometimes a journey, and an ending that comes
back to the fact."""

from src.data.sources.generated.grammar import Teller, Writer, make_odds
from src.data.sources.generated.stories.frame import close, introduce
from src.data.sources.generated.stories.journeys import JOURNEYS
from src.data.sources.generated.stories.people import FRIENDS
from src.data.sources.generated.stories.scenes import prose, tell
from src.data.sources.generated.stories.things import THINGS
from src.data.sources.generated.stories.travel import travel
from src.data.sources.generated.stories.world import LEXICONS

PLOTS = {**THINGS, **FRIENDS, **JOURNEYS}
_OPENINGS = [(name, prose(opening)) for name, plot in PLOTS.items() for opening in plot.openings]
_OPENING_ODDS = make_odds((1.0,) * len(_OPENINGS))


def tell_story(writer: Writer) -> str:
    """Write one story and return the name of its plot."""
    story = Teller(writer, LEXICONS)
    fact = introduce(story)
    story.say("\n\n")
    name, _ = _OPENINGS[story.pick(*(opening for _, opening in _OPENINGS), odds=_OPENING_ODDS)]
    tell(story, *PLOTS[name].scenes)
    travel(story, fact)
    close(story, fact)
    return name
