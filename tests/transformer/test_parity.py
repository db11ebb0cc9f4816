"""Parity with PyTorch: torch.nn.Transformer with the same weights must compute the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.transformer.compiled import decode, encode, forward
from transformer.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig
from transformer.model import shift_right
from transformer.optimizer import learning_rate
from transformer.positions import SinusoidalPositions
from transformer.segments import segments
from transformer.train import batch_loss, graph_of, init_params, init_state, make_train_step

torch = pytest.importorskip("torch")

CONFIG = ModelConfig(vocab_size=37, num_layers=2, d_model=32, d_ff=48, num_heads=4, d_k=8, d_v=8, dropout=0.0)
SMOOTHING = 0.1

OTHERS = {
    "pre-norm": replace(
        CONFIG,
        decoder_layers=3,
        activation="gelu",
        biases=False,
        norm="pre",
        norm_epsilon=1e-3,
        tied="none",
        output_bias=True,
        scale_embeddings=False,
    ),
    "shared layers": replace(
        CONFIG, decoder_layers=4, shared_layers=2, activation="swish", tied="target", source_vocab_size=41
    ),
}
ACTIVATIONS = {"relu": torch.nn.functional.relu, "gelu": torch.nn.functional.gelu, "swish": torch.nn.functional.silu}


class Peer(torch.nn.Module):
    """torch.nn.Transformer with embeddings: in the paper's settings, one matrix."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        D, V = config.d_model, config.vocab_size

        def norm():
            return torch.nn.LayerNorm(D, eps=config.norm_epsilon)

        def layers(kind, depth):
            made = []
            for _ in range(depth // config.shared_layers):
                layer = kind(
                    D,
                    config.num_heads,
                    config.d_ff,
                    config.dropout,
                    activation=ACTIVATIONS[config.activation],
                    norm_first=config.norm == "pre",
                    bias=config.biases,
                    batch_first=True,
                )
                for name in [name for name, _ in layer.named_children() if name.startswith("norm")]:
                    setattr(layer, name, norm())  # without biases, theirs would be without one too
                made += [layer] * config.shared_layers
            return torch.nn.ModuleList(made)

        # Custom stacks, since those of nn.Transformer always end with a layer norm.
        encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(D, 1), 1, enable_nested_tensor=False)
        decoder = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(D, 1), 1)
        encoder.layers = layers(torch.nn.TransformerEncoderLayer, config.num_layers)
        decoder.layers = layers(torch.nn.TransformerDecoderLayer, config.decoder_depth)
        encoder.num_layers, decoder.num_layers = len(encoder.layers), len(decoder.layers)
        if config.norm == "pre":
            encoder.norm, decoder.norm = norm(), norm()
        self.stacks = torch.nn.Transformer(
            D, config.num_heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
        )

        def matrix(rows=V):
            return torch.nn.Parameter(torch.randn(rows, D) / D**0.5)

        self.embedding = matrix()
        self.source_embedding = self.embedding if config.tied == "all" else matrix(config.source_rows)
        self.output_embedding = matrix() if config.tied == "none" else self.embedding
        self.output_bias = torch.nn.Parameter(torch.zeros(V), requires_grad=config.output_bias)
        for name, parameter in self.named_parameters():
            # zero at the start: a swapped bias would go unnoticed
            if name.endswith("bias") and parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)

    def embed(self, table, tokens):
        positions = np.array(SinusoidalPositions(self.config, rngs=nnx.Rngs(0))(jnp.arange(tokens.shape[1])))
        scale = self.config.d_model**0.5 if self.config.scale_embeddings else 1.0
        return table[tokens] * scale + torch.tensor(positions)

    def encode(self, source):
        return self.stacks.encoder(self.embed(self.source_embedding, source), src_key_padding_mask=source == 0)

    def decode(self, shifted, memory, source):
        mask = self.stacks.generate_square_subsequent_mask(shifted.shape[1])
        return self.stacks.decoder(
            self.embed(self.embedding, shifted),
            memory,
            tgt_mask=mask,
            tgt_is_causal=True,
            memory_key_padding_mask=source == 0,
        )

    def forward(self, source, shifted):
        return self.decode(shifted, self.encode(source), source) @ self.output_embedding.T + self.output_bias

    def loss(self, source, shifted, target):
        # PyTorch spreads eps over all V classes, we over the V - 1 wrong ones: loss.py has the conversion.
        eps = SMOOTHING * CONFIG.vocab_size / (CONFIG.vocab_size - 1)
        logits = self(source, shifted).flatten(0, 1)
        return torch.nn.functional.cross_entropy(
            logits, target.flatten(), ignore_index=0, label_smoothing=eps, reduction="sum"
        )


def as_ours(peer, read):
    """Arranges PyTorch's tensors, `read` from each parameter (value or gradient), as our tree of parameters."""
    config = peer.config
    D, N = config.d_model, config.num_heads

    def array(parameter):
        return jnp.array(read(parameter).detach().numpy())

    def projection(kernel, bias):
        return {"kernel": kernel} | ({} if bias is None else {"bias": bias})

    def attention(layer):
        result = {}
        weights = array(layer.in_proj_weight)
        biases = None if layer.in_proj_bias is None else array(layer.in_proj_bias)
        for i, name in enumerate(("query", "key", "value")):
            rows = slice(i * D, (i + 1) * D)
            bias = None if biases is None else biases[rows].reshape(N, -1)
            result[name] = projection(weights[rows].T.reshape(D, N, -1), bias)
        return result | {"output": linear(layer.out_proj, (N, -1, D))}

    def linear(layer, shape=None):
        kernel = array(layer.weight).T
        bias = None if layer.bias is None else array(layer.bias)
        return projection(kernel if shape is None else kernel.reshape(shape), bias)

    def norm(layer):
        return {"scale": array(layer.weight), "bias": array(layer.bias)}

    def layer(layer, attentions):
        norms = [getattr(layer, f"norm{i + 1}") for i in range(len(attentions) + 1)]
        return {name: attention(getattr(layer, theirs)) for name, theirs in attentions.items()} | {
            "feed_forward": {"inner": linear(layer.linear1), "outer": linear(layer.linear2)},
            "residuals": {i: {"norm": norm(each)} for i, each in enumerate(norms)},
        }

    own = {"self_attention": "self_attn"}
    both = own | {"cross_attention": "multihead_attn"}
    encoder, decoder = peer.stacks.encoder, peer.stacks.decoder
    tree = {
        "embedding": array(peer.embedding),
        "encoder": {i: layer(x, own) for i, x in enumerate(encoder.layers[:: config.shared_layers])},
        "decoder": {i: layer(x, both) for i, x in enumerate(decoder.layers[:: config.shared_layers])},
    }
    if config.norm == "pre":
        tree |= {"encoder_norm": norm(encoder.norm), "decoder_norm": norm(decoder.norm)}
    if config.tied != "all":
        tree["source_embedding"] = array(peer.source_embedding)
    if config.tied == "none":
        tree["output_embedding"] = array(peer.output_embedding)
    return tree | ({"output_bias": array(peer.output_bias)} if config.output_bias else {})


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    source, target = (rng.integers(3, CONFIG.vocab_size, (4, width)) for width in (9, 7))
    for row, (s, t) in enumerate([(9, 3), (4, 7), (1, 5), (6, 1)]):
        source[row, s:] = 0
        target[row, t:] = 0
    return {"source": jnp.array(source), "target": jnp.array(target)}


@pytest.fixture
def peer():
    torch.manual_seed(0)
    return Peer(CONFIG)


@pytest.fixture(params=["the paper", *OTHERS])
def any_peer(request):
    torch.manual_seed(0)
    return Peer(OTHERS.get(request.param, CONFIG))


def in_torch(batch):
    arrays = batch["source"], shift_right(batch["target"], segments(batch["target"])), batch["target"]
    return [torch.tensor(np.array(array), dtype=torch.long) for array in arrays]


def ours(peer):
    return nnx.merge(graph_of(peer.config), as_ours(peer, lambda parameter: parameter))


def test_our_tree_is_the_peers(any_peer):
    expected = jax.eval_shape(lambda: init_params(any_peer.config, 0))
    found = as_ours(any_peer, lambda parameter: parameter)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(lambda x: x.shape, expected)


def test_encoder_decoder_and_logits(any_peer, batch):
    source, shifted, _ = in_torch(batch)
    model = ours(any_peer)
    memory, theirs = encode(model, batch["source"]), any_peer.encode(source)
    real = (source != 0).numpy()
    np.testing.assert_allclose(np.array(memory)[real], theirs.detach().numpy()[real], atol=1e-5)
    hidden = decode(model, batch["target"], memory, batch["source"])
    np.testing.assert_allclose(hidden, any_peer.decode(shifted, theirs, source).detach().numpy(), atol=1e-5)
    logits = any_peer(source, shifted).detach().numpy()
    np.testing.assert_allclose(forward(model, batch["source"], batch["target"]), logits, atol=1e-5)


def test_label_smoothed_loss_and_every_gradient(any_peer, batch):
    theirs = any_peer.loss(*in_torch(batch))
    theirs.backward()

    def loss(params):
        return batch_loss(nnx.merge(graph_of(any_peer.config), params), batch, None, SMOOTHING)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(as_ours(any_peer, lambda parameter: parameter))
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-6)
    expected = as_ours(any_peer, lambda parameter: parameter.grad)
    for (path, ours_), theirs_ in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours_, theirs_, atol=2e-5, rtol=1e-4, err_msg=jax.tree_util.keystr(path))


def experiment():
    return Experiment(
        "parity",
        model=CONFIG,
        data=DataConfig(vocab_size=37),
        optimizer=OptimizerConfig(warmup_steps=10),
        train=TrainConfig(label_smoothing=SMOOTHING),
    )


@pytest.mark.slow
def test_three_steps_of_adam(peer, batch):
    setup = experiment()
    state = init_state(setup)._replace(params=as_ours(peer, lambda parameter: parameter))
    step = jax.jit(make_train_step(setup))
    adam = torch.optim.Adam(peer.parameters(), betas=(0.9, 0.98), eps=1e-9)
    source, shifted, target = in_torch(batch)
    clear = jax.tree.map(lambda p: jnp.ones(p.shape, bool), state.params)
    for number in range(1, 4):
        state, metrics = step(state, batch, jax.random.key(0))
        adam.zero_grad()
        loss = peer.loss(source, shifted, target)
        (loss / (target != 0).sum()).backward()
        clear = jax.tree.map(lambda c, g: c & ((abs(g) > 1e-7) | (g == 0)), clear, as_ours(peer, lambda p: p.grad))
        adam.param_groups[0]["lr"] = float(learning_rate(number, setup))
        adam.step()
        np.testing.assert_allclose(metrics.loss, loss.item(), rtol=1e-5)
    expected = as_ours(peer, lambda parameter: parameter)
    for (path, ours_), theirs, mask in zip(
        jax.tree_util.tree_leaves_with_path(state.params),
        jax.tree.leaves(expected),
        jax.tree.leaves(clear),
        strict=True,
    ):
        name = jax.tree_util.keystr(path)
        # Adam turns a gradient of pure rounding noise into a full step; the key biases have such gradients.
        assert "'key']['bias']" in name or mask.mean() > 0.95, name
        if "'key']['bias']" not in name:
            np.testing.assert_allclose(ours_[mask], theirs[mask], atol=1e-5, err_msg=name)
