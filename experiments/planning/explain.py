"""`explain NAME`: an experiment as the paper's equations, with its sizes, and how it differs from the paper."""

import ast
from collections.abc import Iterator
from dataclasses import asdict
from inspect import cleandoc
from pathlib import Path
from types import FunctionType
from typing import Any

import jax

from data.corpora import CORPORA
from data.treebanks.linear import TAGS
from experiments.presets.deviations import deviations
from experiments.registry import REGISTRIES, custom_parts
from experiments.task import TASKS
from experiments.workdir import WorkDir, title_of, value_of
from transformer.config import LABELLED, DecodeConfig, Experiment, ModelConfig, counted
from transformer.model import count_parameters
from transformer.optimizer import OPTIMIZERS, SCHEDULES
from transformer.parameters import Params
from transformer.registry import Registry
from transformer.train import init_params

PAPER = ModelConfig()
"""The paper's settings: what it says nothing about is explained only where it differs from these."""


def explain(experiment: Experiment, run: WorkDir | None = None) -> Iterator[str]:
    """Yields lines to print. Shapes and counts are those of the parameters that a run would have.

    If the settings are those of a run, the title names it.

    UserError for a component that is not registered.
    """
    m, corpus, o, t, d = experiment.model, experiment.data, experiment.optimizer, experiment.train, experiment.decode
    for registry in REGISTRIES:  # check all components before printing the first line
        if registry is not CORPORA:
            registry.find(value_of(asdict(experiment), registry.setting))
    differing = deviations(experiment)
    params = jax.eval_shape(lambda: init_params(m, 0))
    layer = params.get("decoder", params["encoder"])[0]
    attention, feed_forward = layer["self_attention"], layer["feed_forward"]
    norm = layer.get("residuals", {0: {}})[0].get("norm", {})  # a custom norm may have no parameters
    encoder, decoder = m.num_layers, m.decoder_depth

    def applied(times: int) -> str:
        """How often something of every layer is applied, and how many of it have parameters of their own."""
        return f"{times} of them" + (
            f" with the parameters of {times // m.shared_layers}" if m.shared_layers > 1 else ""
        )

    yield f"{title_of(experiment, run)}, by section of the paper"
    yield f"D = d_model = {m.d_model}   F = d_ff = {m.d_ff}   h = {m.num_heads}   K = d_k = {m.d_k}   H = d_v = {m.d_v}"
    kinds = dict.fromkeys(TAGS, "symbols of trees at most") | dict.fromkeys(LABELLED, "labels at most")
    pieces = kinds.get(corpus.task, "subword pieces")
    yield f"V = {m.vocab_size:,} rows of the embedding, for {corpus.vocab_size:,} {pieces}"
    if corpus.vocabularies == "separate":
        rows, of_source = m.source_rows, corpus.source_pieces
        yield f"    {rows:,} rows of that of the source, for {of_source:,} pieces of its own vocabulary"
    yield ""
    if m.architecture != PAPER.architecture:
        yield from component(experiment, "model.architecture", "3.1")
    yield "3.1    each sub-layer f: " + ("Norm(x + f(x))" if m.norm == "post" else "x + f(Norm(x)), and a final Norm")
    yield f"       encoder: {counted(encoder, 'layer')} of self-attention and FFN"
    if decoder:
        layers, masked = counted(decoder, "layer"), "" if m.architecture == "mask-predict" else "masked "
        yield f"       decoder: {layers} of {masked}self-attention, attention over the encoder's output, and FFN"
    else:
        yield "       no decoder: the labels are predicted from the encoder's output"
    if m.shared_layers > 1:
        yield f"       each {m.shared_layers} consecutive layers have the same parameters"
    yield from component(experiment, "model.norm_type")
    yield f"       {count(norm):,} parameters each{': ' + shapes(norm) if norm else ''}"
    if m.norm_epsilon != PAPER.norm_epsilon:
        yield f"       epsilon = {m.norm_epsilon:g}"
    if m.attention == "softmax":
        yield f"3.2.1  Attention(Q, K, V) = softmax(Q K^T / sqrt({m.d_k})) V"
    else:
        yield from component(experiment, "model.attention", "3.2.1")
    if m.attention in ("restricted", "sparse"):
        yield f"       r = {m.attention_window} tokens; the paper plans it and has no such model (4, 7)"
    if m.architecture == "recurrent":
        memory = f"which remember the {m.attention_memory} before them"
        yield f"       decoder: segments of {m.attention_window} tokens, {memory}"
    biased = "with a bias" if m.biases else "without bias"
    yield f"3.2.2  MultiHead(x, m) = Concat(head_1, ..., head_{m.num_heads}) W^O"
    yield f"       head_i = Attention(x W_i^Q, m W_i^K, m W_i^V), each projection {biased}"
    yield f"       {applied(encoder + 2 * decoder)}, {count(attention):,} parameters each: {shapes(attention)}"
    if m.feed_forward == "ffn":
        inner = "x W_1 + b_1" if m.biases else "x W_1"
        active = f"max(0, {inner})" if m.activation == "relu" else f"{m.activation}({inner})"
        yield f"3.3    FFN(x) = {active} W_2" + (" + b_2" if m.biases else "")
    else:
        yield from component(experiment, "model.feed_forward", "3.3")
    if m.activation != "relu":
        yield from component(experiment, "model.activation")
    yield f"       {applied(encoder + decoder)}, {count(feed_forward):,} parameters each: {shapes(feed_forward)}"
    if m.initializer != PAPER.initializer:
        yield from component(experiment, "model.initializer")
    matrix = {"all": "E", "target": "E", "none": "U"}[m.tied]
    which = {
        "all": "with tied embeddings E",
        "target": f"with E of the {'target' if decoder else 'labels'} and E' of the source",
        "none": "with E of the target, E' of the source and U",
    }[m.tied]
    scaled, bias = f" sqrt({m.d_model})" if m.scale_embeddings else "", " + b" if m.output_bias else ""
    predicts = {"mask-predict": "masked w"}.get(m.architecture, "next w") if decoder else "label"
    embedded = ("E" if decoder else "E'") + "[w]" + scaled + " + PE(position)" * (m.positions != "none")
    yield f"3.4    x = {embedded}; p({predicts}) = softmax(x {matrix}^T{bias}), {which}"
    for symbol, name in (
        ("E", "embedding"),
        ("E'", "source_embedding"),
        ("U", "output_embedding"),
        ("b", "output_bias"),
    ):
        if name in params:
            yield f"       {count(params[name]):,} parameters: {symbol} {list(params[name].shape)}"
    yield from component(experiment, "model.positions", "3.5")
    yield f"       {count(params.get('positions', {})):,} parameters"
    yield f"total  {count_parameters(m):,} parameters; matrix products in {m.dtype}"
    yield ""
    yield f"5.1    {corpus.corpus}, {corpus.vocab_type}; batches of {corpus.batch_tokens:,} tokens"
    if corpus.task != "translation":
        yield from component(experiment, "data.task")
    if corpus.context > 1:
        yield f"       each sentence with up to {corpus.context - 1} before it in its document: s_1 <sep> s_2 ... EOS"
    if corpus.subword_sampling:
        meaning = "BPE-dropout" if corpus.vocab_type == "bpe" else "segmentations sampled with exponent"
        yield f"       training text encoded anew in each epoch: {meaning} {corpus.subword_sampling:g}"
    if corpus.curriculum:
        yield f"       {counted(corpus.curriculum, 'epoch')} of short sentences first, each with more of them"
    yield f"5.2    {counted(t.steps, 'step')}"
    yield from start(experiment)
    yield from component(experiment, "optimizer.name", "5.3")
    if o.name in OPTIMIZERS.built_in:
        yield f"       beta_1 = {o.b1}, beta_2 = {o.b2}, epsilon = {o.eps:g}"
    yield from component(experiment, "optimizer.schedule")
    if o.schedule in SCHEDULES.built_in:
        yield f"       warmup {counted(o.warmup_steps, 'step')}, scale {o.scale:g}"
    if o.weight_decay:
        yield f"       weight decay {o.weight_decay:g}, decoupled: w loses {o.weight_decay:g} rate w in each step"
    if o.clip_norm:
        yield f"       gradients of a global norm above {o.clip_norm:g} are scaled down to it"
    yield f"5.4    P_drop = {m.dropout} after each sub-layer, and on x (3.4)"
    if m.attention_dropout:
        yield f"       {m.attention_dropout} on the attention weights"
    if m.activation_dropout:
        yield f"       {m.activation_dropout} inside of each FFN, after the activation"
    if t.loss != "cross_entropy":
        yield from component(experiment, "train.loss")
    wrong = t.label_smoothing / (m.vocab_size - 1)
    wrong_ones = "token" if decoder else "label"
    yield f"       eps_ls = {t.label_smoothing}: target {1 - t.label_smoothing:g}, every other {wrong_ones} {wrong:.3g}"
    longer = counted(d.extra_length, "token")
    search = f"sampled, temperature {d.temperature:g}" if d.sample else f"beam of {d.beam}"
    if m.architecture == "mask-predict":
        passes, lengths = counted(d.iterations, "pass", "passes"), counted(d.beam, "length")
        best = f"the best by its mean log P; at most {longer} longer than the source"
        yield f"6.1    no search: {passes} through the decoder with {lengths} in parallel; {best}"
    elif decoder:
        yield f"6.1    {search}; log P / ((5 + length) / 6)^{d.alpha}; at most {longer} longer than the source"
    else:
        yield "6.1    no search: the likeliest labels, in one pass"
    yield from rules(d)
    if corpus.context > 1:
        yield "       documents sentence by sentence: the output begins with the translations of those before it"
    yield f"       parameters: the average of the last {counted(t.keep, 'checkpoint')}"
    if t.ema:
        yield f"       and with --checkpoint ema their moving average over the steps, with a decay of {t.ema:g}"
    yield ""
    yield "differences from the paper:"
    for line in differing:
        yield f"  - {line}"
    for setting, part in custom_parts(experiment).items():
        yield f"  - {setting} = {part['name']!r} is not built in: {part.get('file', 'a notebook')}"


def start(experiment: Experiment) -> Iterator[str]:
    """Yields lines on where training starts and what is trained, unless it is all parameters from random ones."""
    if experiment.init:
        layers = f", layers {experiment.init_layers}" if experiment.init_layers else ""
        yield f"       starts from the parameters of {experiment.init}{layers}"
    if experiment.branch:
        yield f"       continues {experiment.branch}, with its optimizer state and number of steps"
    if lora := experiment.lora.rank:
        yield f"       trains only products of rank {lora}, times {experiment.lora.alpha:g} / {lora}: W + a b for"
        yield f"       {experiment.lora.on.replace(',', ', ')} (LoRA)"
    if experiment.freeze:
        yield f"       does not train {experiment.freeze}"


def component(experiment: Experiment, setting: str, section: str = "") -> Iterator[str]:
    """Yields the line of the component that a setting selects: the first line of its docstring."""
    registry = next(registry for registry in REGISTRIES if registry.setting == setting)
    name = value_of(asdict(experiment), setting)
    yield f"{section:7}{setting} = {name!r}: {(docstring_of(registry, name) or 'no docstring').splitlines()[0]}"


def docstring_of(registry: Registry[Any], name: str) -> str:
    """Returns the docstring of a component, or else of the file that registered it; never that of a base class."""
    part = type(registry[name]) if registry is TASKS else registry[name]
    own = part.__dict__.get("__doc__") if isinstance(part, type) else getattr(part, "__doc__", "")
    if isinstance(part, type | FunctionType) and own:
        return cleandoc(own)
    file = registry.origins.get(name, {}).get("file")
    return ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8"))) or "" if file else ""


def rules(decode: DecodeConfig) -> Iterator[str]:
    """Yields a line with the settings of decoding that came after the paper, if there are any."""
    told = (
        (decode.top_k, f"top-k {decode.top_k}"),
        (decode.top_p < 1.0, f"top-p {decode.top_p:g}"),
        (decode.min_length, f"at least {counted(decode.min_length, 'piece')}"),
        (decode.no_repeat_ngram, f"no {decode.no_repeat_ngram}-gram twice"),
        (decode.forbid_unk, "no <unk>"),
        (decode.only_trees, "only trees over the words of the sentence (6.3)"),
        (decode.replace_unk, "<unk> replaced by the source word that attention points at"),
    )
    if any(applies for applies, _ in told):
        yield f"       {'; '.join(words for applies, words in told if applies)}"


def count(params: Params) -> int:
    """Returns the number of elements in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def shapes(params: dict[str, Any]) -> str:
    """Formats the shapes of all arrays with more than one axis (not biases and scales): "query [512, 8, 64], ..."."""
    found = jax.tree_util.tree_leaves_with_path(params)
    large = [(path, leaf) for path, leaf in found if leaf.ndim > 1 and path[-1].key != "bias"] or found
    return ", ".join(f"{path[0].key} {list(leaf.shape)}" for path, leaf in large)
