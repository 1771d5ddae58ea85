"""Short stories: an opening with a hero and one fact, a plot, sometimes a long journey, and an ending that repeats the
fact."""

from src.data.sources.generated.grammar import TemplateWriter, Writer, make_odds
from src.data.sources.generated.stories.lexicon import LEXICONS
from src.data.sources.generated.stories.long_journeys import write_journey
from src.data.sources.generated.stories.plots_journeys import JOURNEY_PLOTS
from src.data.sources.generated.stories.plots_people import PEOPLE_PLOTS
from src.data.sources.generated.stories.plots_things import THING_PLOTS
from src.data.sources.generated.stories.scaffold import write_ending, write_opening
from src.data.sources.generated.stories.scenes import prose, write_scenes

PLOTS = {**THING_PLOTS, **PEOPLE_PLOTS, **JOURNEY_PLOTS}
_OPENINGS = [(name, prose(opening)) for name, plot in PLOTS.items() for opening in plot.openings]
_OPENING_ODDS = make_odds((1.0,) * len(_OPENINGS))


def write_story(writer: Writer) -> str:
    """Write one story and return the name of its plot."""
    story = TemplateWriter(writer, LEXICONS)
    fact = write_opening(story)
    story.write_template("\n\n")
    name, _ = _OPENINGS[story.pick(*(opening for _, opening in _OPENINGS), odds=_OPENING_ODDS)]
    write_scenes(story, *PLOTS[name].scenes)
    write_journey(story, fact)
    write_ending(story, fact)
    return name
