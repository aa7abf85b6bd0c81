"""Which words a model was trained on, so that a prompt with others gets a note.

The recipe records the words of all captions in `data` of the model folder, most frequent first, if there are few enough
for a note to help. It does not matter which conditioner reads them.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from codecdiff.conditioners.requests import KEY, TEMPO
from codecdiff.interfaces import Prompt, prompt_text

if TYPE_CHECKING:
    from codecdiff.data.code_store import CodeStore
    from codecdiff.interfaces import Conditioner

MAX_WORDS = 3_000  # of a vocabulary that is recorded: about 20 kB
MAX_EXAMPLES = 30  # words that a note lists; `codecdiff inspect` prints all
FUNCTION_WORDS = {"and", "but", "for", "from", "into", "over", "the", "with", "without"}  # which a note leaves out
WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*#?")  # a sharp belongs to its note


def words_of(text: str) -> list[str]:
    """Return the words of a text, case folded; numbers are not words."""
    return WORD.findall(text.casefold().replace("♯", "#"))


def training_words(prompts: Iterable[Prompt]) -> dict[str, str]:
    """Return the words of training prompts as `{"words": "tune in a ..."}`; empty if there are none or too many."""
    counts = Counter(word for prompt in prompts for word in words_of(prompt_text(prompt)))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return {"words": " ".join(words)} if 0 < len(words) <= MAX_WORDS else {}


def spread_captions(store: CodeStore, conditioner: Conditioner | None, count: int = 4) -> list[str]:
    """Return `count` captions at most, spread over the store; an empty one without captions, or if none is read."""
    if conditioner is None or "text" not in conditioner.fields:
        return [""]
    captions = list(dict.fromkeys(caption for i in range(len(store)) for caption in store.captions(i)[:1] if caption))
    count = min(count, len(captions))
    return [captions[i * len(captions) // count] for i in range(count)] or [""]


def vocabulary_note(
    conditioner: Conditioner | None, data: Mapping[str, Any], prompts: Iterable[Prompt], model: str = ""
) -> str:
    """Return a note on the words of prompts that a model was not trained on; empty if there are none.

    `data` is what the model's folder records of its music: without words, or if the conditioner reads no text, the note
    is empty. Keys and tempos do not count where the conditioner parses them. `model` is what it was loaded by.
    """
    sources = conditioner.sources.values() if conditioner else ()
    read_from_text = {field for fields in sources if "text" in fields for field in fields}
    trained = dict.fromkeys(str(data.get("words", "")).split() if read_from_text else [])  # in their order
    parsed = [pattern for field, pattern in (("key", KEY), ("tempo", TEMPO)) if field in read_from_text]
    texts = [reduce(lambda text, pattern: pattern.sub("", text), parsed, prompt_text(prompt)) for prompt in prompts]
    words = {word.casefold(): word for text in texts for word in WORD.findall(text.replace("♯", "#"))}
    new = [f"'{as_written}'" for word, as_written in words.items() if word not in trained]
    if not trained or not new:
        return ""
    examples = [word for word in trained if (len(word) > 2 or word.endswith("#")) and word not in FUNCTION_WORDS]
    is_cut = len(examples) > MAX_EXAMPLES
    more = f"... All of them: codecdiff inspect {shlex.quote(model)}" if is_cut and model else "..."
    listed = ", ".join([*examples[:MAX_EXAMPLES], *([more] if is_cut else [])])
    return f"The model was not trained on {', '.join(new)}. Words it knows, {len(trained):,} in all: {listed}"
