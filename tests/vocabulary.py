"""Words that the library does not use, and what to write: a lint over names, docstrings, messages and documents.

`python tests/structure.py --list vocabulary` prints every place. A word that is right goes to ALLOWED with a reason.

- NAMES are words of identifiers, which are split at underscores and capitals: `kept_codes` holds `kept`.
- EXACT_NAMES are whole identifiers, in which case counts.
- PROSE are patterns in docstrings, comments, messages, help texts and documents; case does not count.
- DOCSTRINGS are patterns in docstrings alone, SETTINGS and DOCUMENTS in documents and configurations alone.
Both kinds of names are also looked for in strings that are an identifier, such as keys of a report and options.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Allowed(NamedTuple):
    """A word or a whole identifier that files may use."""

    word: str  # as it is reported; "*" for all
    path: str  # a pattern, searched in the path
    reason: str


ALLOWED = (
    Allowed("not_found", r"", "the usual name of what is missing, as in FileNotFoundError"),
    Allowed("FileNotFound", r"", "the usual name of what is missing"),
    Allowed("held_out", r"codecdiff_starter/(composer|facts)", "combinations that training never has, not a split"),
    Allowed("*", r"^codecdiff/data/legacy\.py$", "the reader of what version 0.1 wrote"),
    Allowed("projections", r"^codecdiff/data/code_store\.py$", "key of a store that version 0.1 wrote"),
    Allowed("licence", r"^codecdiff/data/(code_store|encoding/worker|manifest)\.py$", "key and column of version 0.1"),
    Allowed("licence", r"codecdiff_datasets/importers/", "column of published data sets"),
    Allowed("takes", r"^codecdiff/cli/generate\.py$", "alias of --num-waveforms, as version 0.1 had it"),
    Allowed("card", r"codecdiff_eval/commands\.py$", "alias of --model-card, as version 0.1 had it"),
    Allowed("page", r"^codecdiff/data/audio\.py$", "of an Ogg stream"),
    Allowed("page", r"^codecdiff/files/parquet_size\.py$", "of a parquet file"),
    Allowed("pages", r"^codecdiff/files/parquet_size\.py$", "of a parquet file"),
    Allowed("entries", r"^codecdiff/registry\.py$", "entry points of Python packages"),
    Allowed("projections", r"codecdiff_(dit/denoiser|starter/codec)\.py$", "name of stored parameters"),
    Allowed("numbers", r"codecdiff_eval/numbers\.py$", "the module that writes numbers as text"),
    Allowed("hear", r"codecdiff_datasets/captioners/describe\.py$", "instruction to a model that listens"),
    Allowed("piece", r"^(README\.md|docs/compare\.md|recipes/configs/)", "of music, in a caption"),
    Allowed("piece", r"(codecdiff_starter/facts|codecdiff_datasets/testing)\.py$", "of music, in a caption"),
    Allowed("--steps", r"^(docs/(few-steps|results)\.md|recipes/|CHANGELOG)", "option of `codecdiff distill`"),
    Allowed("meter", r"codecdiff_(starter/|studio/fields\.py)", "of music: three or four beats in a bar"),
    Allowed("meters", r"codecdiff_starter/", "of music: three or four beats in a bar"),
)

NAMES: Mapping[str, str] = {  # word of an identifier -> what to write
    **dict.fromkeys(("told", "said"), "message, metadata"),
    **dict.fromkeys(("asked", "unasked"), "requested, prompt"),
    "given": "inputs",
    "known": "available, EditMask",
    "kept": "retained, keep_mask",
    "made": "generated",
    "found": "result",
    "heard": "embeddings",
    "chosen": "selected, EvalSplit",
    **dict.fromkeys(("mend", "mends", "mended"), "fix"),
    **dict.fromkeys(("fault", "faults", "faulty"), "issue"),
    **dict.fromkeys(("remedy", "remedies"), "hint"),
    **dict.fromkeys(("quarantine", "quarantined"), "subprocess check"),
    **dict.fromkeys(("judge", "judges", "judged", "judging"), "embedding model, evaluator"),
    **dict.fromkeys(("hear", "hears", "hearing", "listen", "listens", "ear", "ears"), "embed, EmbeddingConfig"),
    **dict.fromkeys(("listener", "listeners"), "CachedEmbedder"),
    **dict.fromkeys(("rendition", "renditions"), "generated clip"),
    **dict.fromkeys(("maker", "makers"), "Generator"),
    "material": "inputs",
    "ceiling": "codec reconstruction (upper bound)",
    **dict.fromkeys(("obey", "obeyed", "obedience"), "prompt adherence"),
    **dict.fromkeys(("lesson", "lessons"), "probe training set"),
    **dict.fromkeys(("remember", "remembered", "remembering"), "memorization, cache"),
    "nearness": "nearest-neighbor distance ratio",
    **dict.fromkeys(("law", "laws"), "check"),
    **dict.fromkeys(("trial", "trials"), "case"),
    **dict.fromkeys(("examine", "examined"), "run_checks"),
    **dict.fromkeys(("demand", "demands", "demanded"), "assert_all"),
    **dict.fromkeys(("bill", "bills"), "usage"),
    **dict.fromkeys(("tally", "tallies", "tallied"), "progress"),
    **dict.fromkeys(("journal", "journals"), "append-only log"),
    **dict.fromkeys(("meter", "meters"), "counter"),
    **dict.fromkeys(("share", "shares"), "fraction"),
    "origins": "code version",
    **dict.fromkeys(("outline", "outlined"), "meta-device skeleton"),
    "recorded": "to_config",
    "supplied": "DERIVED",
    **dict.fromkeys(("blueprint", "blueprints"), "ExperimentConfig"),
    "takes": "num_waveforms_per_prompt, samples",
    **dict.fromkeys(("piece", "pieces", "recording", "recordings"), "track, segment, crop or clip"),
    **dict.fromkeys(("page", "pages"), "report"),
    **dict.fromkeys(("sheet", "sheets"), "table"),
    **dict.fromkeys(("picture", "pictures", "chart", "charts"), "plot"),
    **dict.fromkeys(("card", "cards"), "model_card"),
    **dict.fromkeys(("halo", "halos"), "context frames"),
    **dict.fromkeys(("cue", "cues", "cued"), "conditioning features"),
    "entries": "codebook vectors, ConditionTokens",
    **dict.fromkeys(("standardize", "standardized", "standardizes"), "normalize"),
    "projections": "continuous, pre-quantization latents",
}
EXACT_NAMES: Mapping[str, str] = {  # identifier -> what to write
    "some": "subset",
    "rest": "remainder",
    "take": "sample",
    "Embedded": "ClipEmbeddings",
    "Statistics": "ReferenceStats",
    "Moments": "GaussianStats",
    "Protocol": "MetricConfig",
    "Figure": "MetricResult",
    "Entry": "ConditionTokens",
    "Broken": "CheckFailed",
    "exceptions": "expected_failures",
    "spec_of": "to_config",
    "Standardized": "NormalizedCodec",
    "Reduced": "PCACodec",
    "Stereo": "StereoCodec",
    "Chunked": "ChunkedCodec",
    "Wrapped": "CodecWrapper",
    "in_pieces": "chunked",
    "Numbers": "NumericConditioner",
    "Joined": "JoinedConditioner",
    "Cached": "CachedConditioner",
    "prepared": "prepare_for_sampling",
    "KnownStage": "StageMask",
    "Known": "EditMask",
    "project": "encode_continuous",
    "clean": "x_start",
    "real": "valid_mask",
    "numbers": "sample_indices",
    "true_primary": "oracle_first_stage",
    "clip_norm": "max_grad_norm",
    "stop_at": "final_timestep_fraction",
    "check_every": "checkpointing_steps",
    "sample_every": "validation_steps",
    "high_noise": "timestep_bias",
    "min_snr": "snr_gamma",
    "context_noise": "context_noise_std",
    "held_out": "validation, validation_fraction",
    "warmup": "warmup_steps",
}
MODULES = {  # names of modules
    *("making", "judging", "comparing", "checking", "collecting", "curating", "listeners", "renditions", "measures"),
    *("meters", "controls", "origins", "embedded", "utils", "util", "helpers", "misc", "common"),
}

BRITISH = (
    r"licenc\w+",
    r"\w*(?:colou?r|neighbou?r|behaviou?r|favou?r|hono[u]r|flavou?r|labou?r|rigou?r)(?<=our)\w*",
    r"(?:de|re|un|non)?(?:normal|optim|initial|summar|organ|recogn|memor|quant|general|visual|serial|token"
    r"|random|minim|maxim|util|real|parametr|parameter|discret|penal|equal|synchron|special|character|categor|priorit"
    r"|vector|regular|harmon|custom|local|final|capital|material|stabil|linear|factor|symmetr|author|emphas|critic"
    r"|ideal|neutral|orthogonal|whiten|central|item|digit|modern|apolog|sanit)is(?:e[sdr]?|ing|ation|ations|able)",
    r"(?:anal|paral|catal)ys(?:ed?|ing)",
    r"centre[sd]?|centring|metre[s]?|fibre[s]?|theatre|grey(?:er|s)?|catalogue[sd]?|programme[s]?|artefact[s]?|judgement[s]?",
    r"(?:label|model|travel|cancel|signal|level|fuel|channel|marshal|total)l(?:ed|ing|er|ers)",
    r"whilst|amongst|defence|offence|practise[sd]?|analogue[s]?|sceptic\w*|mould\w*|learnt|spelt|dreamt",
)
PROSE: Mapping[str, str] = {  # pattern -> what to write
    r"but for": "except for",
    r"of which": "a plain sentence",
    r"(?:is|are|was|were) no (?!longer|more than|less than|fewer than|later than|earlier than)\w+": "is not a, without",
    r"(?:told|unasked|asked)": "passed, requested",
    r"mend(?:s|ed|ing)?": "fix",
    r"faults?|faulty": "issue",
    r"remed(?:y|ies)": "hint",
    r"quarantin\w+": "subprocess check",
    r"judg(?:e[sd]?|ing)": "embedding model, evaluate",
    r"(?:over)?hear(?:s|d|ing)?": "embed, embeddings",
    r"listeners?": "embedding model",
    r"renditions?": "generated clip",
    r"ceilings?": "codec reconstruction (upper bound)",
    r"(?:given the truth|true primary)": "oracle first stage",
    r"obey(?:s|ed|ing)?|obedien(?:t|ce)": "prompt adherence",
    r"lessons?": "probe training set",
    r"remember(?:s|ed|ing)?": "memorization, cache",
    r"nearness": "nearest-neighbor distance ratio",
    r"answer(?:s|ing)? zero": "the zero predictor",
    r"holds zero": "includes zero",
    r"laws?": "check",
    r"trials?": "case",
    r"bills?|tall(?:y|ies)|journals?": "usage, progress, append-only log",
    r"blueprints?|outlined?": "ExperimentConfig, skeleton",
    r"(?:each|every|one|another|per|of a) take|(?:two|three|several|many|all|other|\d) takes": "sample, waveform",
    r"pieces?|recordings?": "track, segment, crop or clip",
    r"(?<!style )sheets?|pictures?|charts?": "table, plot",
    r"(?<!model )(?<!model\n)cards?": "model card",
    r"standardi[sz]\w+": "normalize, normalized",
    r"halos?": "context frames",
    r"codebook entr(?:y|ies)": "codebook vectors",
    r"(?:last|next|every|each) check of training|from (?:its|the) last check": "checkpoint",
    r"go(?:es|ing)? on (?:from|where|after)": "resume, continue",
    r"anew": "again",
    r"made? (?:up )?of (?:that|what) (?:is|was)": "a plain sentence",
    **dict.fromkeys(BRITISH, "American spelling"),
}
DOCSTRINGS: Mapping[str, str] = {
    r"^Gives?|(?<=[.:;] )Gives?": "Return",
    r"and gives? (?:the|its|their|a|an|all|what|how|one|each|every|it|that|this)": "and return",
}
SETTINGS: Mapping[str, str] = {
    r"train\.(?:steps|warmup|schedule|clip_norm)(?!_)": "max_train_steps, warmup_steps, lr_scheduler, max_grad_norm",
    r"diffusion\.(?:steps|schedule|prediction)(?!_)": "num_train_timesteps, beta_schedule, prediction_type",
    r"sampling\.(?:sampler|steps|guidance|stop_at|spacing)(?!_)": "scheduler, num_inference_steps, guidance_scale",
    r"loop\.\w+|loop: *\{": "train_batch_size, crop_seconds, checkpointing_steps",
    r"(?:high_noise|min_snr|context_noise|held_out|clip_norm|stop_at|check_every|sample_every)(?!_)": "the new setting",
    r"--negative(?!-prompt)|--takes|--guidance(?!-scale)|--steps": "--negative-prompt, --num-waveforms, ...",
    r"target[:=] ?projections|--projections": "target: continuous",
}
DOCUMENTS: Mapping[str, str] = {  # turns of phrase that pages had, and manuals in English have not
    r"(?:learn\w*|know\w*) by heart": "overfit",
    r"all the same(?=[.,;:])": "still, nevertheless",
    r"com(?:es?|ing) along": "included",
    r"likeliest": "most likely, greedy decoding",
    r"number for number": "equivalent, exactly",
    r"is for you to": "you have to",
    r"before you pay": "first",
    r"whoever|nobody writes": "a sentence with a subject",
    r"nothing stale": "no outdated",
    r"(?:is|are) to be (?:read|found|had) in": "is in",
    r"do(?:es)? not compare(?=[.,;:])": "cannot be compared",
    r"it moves\.": "works on any device",
    r"written nowhere": "not stored",
    r"to know \|": "notes",
    r"(?:will|would) do:": "is accepted",
    r"what else is promised": "all guarantees",
    r"makes? it known": "registers it",
}


class Table(NamedTuple):
    """Patterns with what to write for each, and one that matches where any of them does, to be quick."""

    any: re.Pattern[str]
    patterns: list[tuple[re.Pattern[str], str]]


def _compiled(table: Mapping[str, str]) -> Table:
    """Patterns that match whole words; a hyphen before them makes another word, as in `pre-recorded`."""
    *single, whole = [re.compile(rf"(?<![\w-])(?:{text})(?!\w)", re.I | re.M) for text in (*table, "|".join(table))]
    return Table(whole, list(zip(single, table.values(), strict=True)))


_PROSE, _DOCSTRINGS, _SETTINGS, _DOCUMENTS = map(_compiled, (PROSE, DOCSTRINGS, SETTINGS, DOCUMENTS))


def allowed(word: str, path: str) -> bool:
    """Whether a file may use the word."""
    return any(each.word in (word, "*") and re.search(each.path, path) for each in ALLOWED)


def words_of(identifier: str) -> list[str]:
    """Split at underscores, hyphens and capitals: `ModelCard_of` -> model, card, of."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)]


def in_identifier(identifier: str, path: str) -> Iterator[str]:
    """Yield what is wrong with an identifier."""
    name = identifier.strip("_")
    if allowed(name, path):
        return
    if name in EXACT_NAMES:
        yield f"name {identifier}: write {EXACT_NAMES[name]}"
        return
    words = words_of(name)
    for before, word in zip([None, *words], words, strict=False):
        if word in ("card", "cards") and before == "model":
            continue
        if word in NAMES and not allowed(word, path):
            yield f"name {identifier}: for '{word}' write {NAMES[word]}"
        elif any(re.fullmatch(pattern, word) for pattern in BRITISH) and not allowed(word, path):
            yield f"name {identifier}: American spelling for '{word}'"


def in_prose(text: str, path: str, line: int, *tables: Table) -> Iterator[tuple[int, str]]:
    """Yield (line, what is wrong) for a text that begins on this line."""
    for table in tables or (_PROSE,):
        for pattern, instead in table.patterns if table.any.search(text) else ():
            for match in pattern.finditer(text):
                word = " ".join(match.group().split())
                if not allowed(word.lower(), path):
                    yield line + text.count("\n", 0, match.start()), f"'{word}': write {instead}"


def _definitions(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.lineno, node.name


def _docstring_ids(nodes: Sequence[ast.AST]) -> set[int]:
    bodies = (
        n.body for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )
    first = (body[0] for body in bodies if body)
    return {id(n.value) for n in first if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}


def in_module(path: str, nodes: Sequence[ast.AST], text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what is wrong) for a Python file: its own name, names, docstrings, comments and strings."""
    for part in Path(path).with_suffix("").parts[-2:]:
        if part in MODULES and not allowed(part, path):
            yield 1, f"module {part}: see the layout of DESIGN.md"
    for wrong in in_identifier(Path(path).stem, path):
        yield 1, f"module {wrong}"
    for line, name in _definitions(nodes):
        for wrong in in_identifier(name, path):
            yield line, wrong
    own = _docstring_ids(nodes)
    for node in nodes:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) in own:
            yield from in_prose(node.value, path, node.lineno, _PROSE, _DOCSTRINGS)
        elif re.fullmatch(r"-{0,2}[a-z_][a-z0-9_-]*", node.value):
            for wrong in in_identifier(node.value.lstrip("-").replace("-", "_"), path):
                yield node.lineno, f"string {wrong}"
        elif re.search(r"[a-z]", node.value):
            yield from in_prose(node.value, path, node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from in_prose(token.string.lstrip("#! "), path, token.start[0])


def is_document(path: str) -> bool:
    """Whether a file is documentation that a user reads, or a configuration."""
    if path.endswith((".yaml", ".yml")):
        return path.startswith("recipes/")
    if path == "CHANGELOG.md" or "tests" in Path(path).parts or path.startswith(("benchmarks/", ".")):
        return False
    return path.endswith((".md", ".html", ".j2", ".jinja", ".jinja2"))


def in_document(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what is wrong) for a document or a configuration."""
    tables = (_PROSE,) if path.endswith(".html") else (_PROSE, _SETTINGS, _DOCUMENTS)
    yield from in_prose(text, path, 1, *tables)
