"""Items of `story_grammar`: minimal pairs of right and wrong English in the words of children's stories.

The form is that of BLiMP (Warstadt et al., 2020, arXiv 1912.00582); words and templates are our own.
"""

from src.evaluation.lm_eval_tasks.templates import Pair, Words, minimal_pairs

N_ITEMS, SEED = 300, 2
WORDS: Words = {
    "girl": ("Lily", "Mia", "Anna", "Sue", "Lucy", "Sara", "Emma", "Amy", "Daisy", "Jane"),
    "boy": ("Tom", "Tim", "Ben", "Max", "Sam", "Jack", "Leo", "Bob", "Fred", "John"),
    "animal": ("dog", "cat", "bird", "bear", "frog", "duck", "rabbit", "fox", "bunny", "horse", "lion", "mouse"),
    "animals": ("dogs", "cats", "birds", "bears", "frogs", "ducks", "rabbits", "foxes", "bunnies", "horses", "lions"),
    "thing": ("ball", "toy", "book", "doll", "hat", "box", "car", "cake", "flower", "kite", "cup", "boat"),
    "things": ("balls", "toys", "books", "dolls", "hats", "boxes", "cars", "cakes", "flowers", "kites", "boats"),
    "vowel": ("apple", "egg", "orange", "umbrella", "owl", "elephant", "ant", "onion", "acorn", "island"),
    "place": ("park", "garden", "forest", "house", "kitchen", "school", "beach", "farm", "store", "river", "zoo"),
    "adjective": ("happy", "sad", "big", "small", "kind", "brave", "hungry", "tired", "old", "funny", "loud", "soft"),
    "pet": ("dog", "cat", "bird", "bear", "frog", "duck", "rabbit", "horse", "lion"),
    "quality": ("red", "blue", "green", "big", "small", "old", "new", "pretty", "shiny"),
    "comparative": ("bigger", "smaller", "faster", "older", "louder", "kinder", "stronger", "taller", "slower"),
}  # fmt: skip
PAIRS = (
    Pair("agreement", "The <adjective> <animal> <?> to play near the <place>.", "likes", "like"),
    Pair("agreement", "The <adjective> <animals> <?> to play near the <place>.", "like", "likes"),
    Pair("agreement", "The <animal> near the <place> <?> very <adjective>.", "was", "were"),
    Pair("agreement", "The <animals> near the <place> <?> very <adjective>.", "were", "was"),
    Pair("existential", "Once upon a time, there <?> a <adjective> <animal> near the <place>.", "was", "were"),
    Pair("existential", "Once upon a time, there <?> two <adjective> <animals> near the <place>.", "were", "was"),
    Pair("pronoun", "<girl> was <adjective>. One day, <?> went to the <place>.", "she", "he"),
    Pair("pronoun", "<boy> was <adjective>. One day, <?> went to the <place>.", "he", "she"),
    Pair("reflexive", "<girl> looked at <?> in the water by the <place>.", "herself", "himself"),
    Pair("reflexive", "<boy> looked at <?> in the water by the <place>.", "himself", "herself"),
    Pair("case", "<girl> saw a <thing>. <?> wanted to play with it.", "She", "Her"),
    Pair("case", "<boy> had a <thing>. The <animal> wanted to play with <?>.", "him", "he"),
    Pair("determiner", "<girl> looked at <?> <animals> near the <place>.", "these", "this"),
    Pair("determiner", "<boy> looked at <?> <animal> near the <place>.", "this", "these"),
    Pair("article", "<girl> found <?> <vowel> near the <place>.", "an", "a"),
    Pair("article", "<boy> found <?> <thing> near the <place>.", "a", "an"),
    Pair("number", "<girl> had two <?> and a <thing>.", "<pet>s", "<pet>"),
    Pair("number", "<boy> had one <?> and many <things>.", "<pet>", "<pet>s"),
    Pair("past tense", "One day, <girl> <?> to the <place> with the <animal>.", "went", "goed"),
    Pair("past tense", "One day, <boy> <?> a <thing> near the <place>.", "found", "finded"),
    Pair("past tense", "<girl> <?> a <thing> to the <adjective> <animal>.", "gave", "gived"),
    Pair("past tense", "<boy> <?> the <adjective> <animal> near the <place>.", "saw", "seed"),
    Pair("infinitive", "<girl> wanted to <?> with the <thing> near the <place>.", "play", "played"),
    Pair("infinitive", "<boy> did not <?> the <thing> near the <place>.", "see", "saw"),
    Pair("infinitive", "<girl> could not <?> the <thing> of the <animal>.", "find", "found"),
    Pair("comparison", "The <animal> was <comparative> <?> the <animal2>.", "than", "then"),
    Pair("comparison", "The <animal> was <?> than the <adjective> <animal2>.", "<comparative>", "more <comparative>"),
    Pair("word order", "<girl> put the <thing> <?> and smiled.", "near the <place>", "the near <place>"),
    Pair("word order", "<boy> had a <?> and a <thing2>.", "<quality> <thing>", "<thing> <quality>"),
    Pair("relative", "The <animal>, <?> lived near the <place>, was <adjective>.", "who", "whom"),
)  # fmt: skip


def grammar_items() -> list[dict[str, str]]:
    """Return the items of story_grammar."""
    return minimal_pairs(PAIRS, WORDS, N_ITEMS, SEED)
