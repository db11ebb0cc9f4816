"""Parity with PyTorch: torch.nn.Transformer with the same weights must compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.transformer.compiled import decode, encode, forward
from transformer.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig
from transformer.loss import cross_entropy
from transformer.model import shift_right
from transformer.optimizer import learning_rate
from transformer.positions import SinusoidalPositions
from transformer.segments import segments
from transformer.train import graph_of, init_state, make_train_step

torch = pytest.importorskip("torch")

CONFIG = ModelConfig(vocab_size=37, num_layers=2, d_model=32, d_ff=48, num_heads=4, d_k=8, d_v=8, dropout=0.0)
SMOOTHING = 0.1


class Peer(torch.nn.Module):
    """torch.nn.Transformer with tied embeddings, as in the paper."""

    def __init__(self):
        super().__init__()
        sizes = (CONFIG.d_model, CONFIG.num_heads, CONFIG.d_ff, CONFIG.dropout)
        options = {"layer_norm_eps": 1e-6, "batch_first": True}
        encoder = torch.nn.TransformerEncoder(
            torch.nn.TransformerEncoderLayer(*sizes, **options), CONFIG.num_layers, enable_nested_tensor=False
        )
        decoder = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(*sizes, **options), CONFIG.num_layers)
        # Custom stacks, since those of nn.Transformer end with a layer norm that the paper does not have.
        self.stacks = torch.nn.Transformer(
            CONFIG.d_model, CONFIG.num_heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
        )
        self.embedding = torch.nn.Parameter(torch.randn(CONFIG.vocab_size, CONFIG.d_model) / CONFIG.d_model**0.5)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):  # zero at the start: a swapped bias would go unnoticed
                torch.nn.init.normal_(parameter, std=0.1)

    def embed(self, tokens):
        positions = np.array(SinusoidalPositions(CONFIG, rngs=nnx.Rngs(0))(jnp.arange(tokens.shape[1])))
        return self.embedding[tokens] * CONFIG.d_model**0.5 + torch.tensor(positions)

    def encode(self, source):
        return self.stacks.encoder(self.embed(source), src_key_padding_mask=source == 0)

    def decode(self, shifted, memory, source):
        mask = self.stacks.generate_square_subsequent_mask(shifted.shape[1])
        return self.stacks.decoder(
            self.embed(shifted),
            memory,
            tgt_mask=mask,
            tgt_is_causal=True,
            memory_key_padding_mask=source == 0,
        )

    def forward(self, source, shifted):
        return self.decode(shifted, self.encode(source), source) @ self.embedding.T

    def loss(self, source, shifted, target):
        # PyTorch spreads eps over all V classes, we over the V - 1 wrong ones: loss.py has the conversion.
        eps = SMOOTHING * CONFIG.vocab_size / (CONFIG.vocab_size - 1)
        logits = self(source, shifted).flatten(0, 1)
        return torch.nn.functional.cross_entropy(
            logits, target.flatten(), ignore_index=0, label_smoothing=eps, reduction="sum"
        )


def as_ours(peer, read):
    """Arranges PyTorch's tensors, `read` from each parameter (value or gradient), as our tree of parameters."""
    D, N = CONFIG.d_model, CONFIG.num_heads

    def array(parameter):
        return jnp.array(read(parameter).detach().numpy())

    def attention(layer):
        result = {}
        weights, biases = array(layer.in_proj_weight), array(layer.in_proj_bias)
        for i, name in enumerate(("query", "key", "value")):
            rows = slice(i * D, (i + 1) * D)
            result[name] = {"kernel": weights[rows].T.reshape(D, N, -1), "bias": biases[rows].reshape(N, -1)}
        kernel = array(layer.out_proj.weight).T.reshape(N, -1, D)
        return result | {"output": {"kernel": kernel, "bias": array(layer.out_proj.bias)}}

    def linear(layer):
        return {"kernel": array(layer.weight).T, "bias": array(layer.bias)}

    def layer(layer, attentions):
        norms = [getattr(layer, f"norm{i + 1}") for i in range(len(attentions) + 1)]
        return {name: attention(getattr(layer, theirs)) for name, theirs in attentions.items()} | {
            "feed_forward": {"inner": linear(layer.linear1), "outer": linear(layer.linear2)},
            "residuals": {
                i: {"norm": {"scale": array(norm.weight), "bias": array(norm.bias)}} for i, norm in enumerate(norms)
            },
        }

    own = {"self_attention": "self_attn"}
    both = own | {"cross_attention": "multihead_attn"}
    return {
        "embedding": array(peer.embedding),
        "encoder": {i: layer(x, own) for i, x in enumerate(peer.stacks.encoder.layers)},
        "decoder": {i: layer(x, both) for i, x in enumerate(peer.stacks.decoder.layers)},
    }


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
    return Peer()


def in_torch(batch):
    arrays = batch["source"], shift_right(batch["target"], segments(batch["target"])), batch["target"]
    return [torch.tensor(np.array(array), dtype=torch.long) for array in arrays]


def ours(peer):
    return nnx.merge(graph_of(CONFIG), as_ours(peer, lambda parameter: parameter))


def test_our_tree_is_the_peers(peer):
    expected = jax.eval_shape(lambda: init_state(experiment())).params
    found = as_ours(peer, lambda parameter: parameter)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(lambda x: x.shape, expected)


def test_encoder_decoder_and_logits(peer, batch):
    source, shifted, _ = in_torch(batch)
    model = ours(peer)
    memory, theirs = encode(model, batch["source"]), peer.encode(source)
    real = (source != 0).numpy()
    np.testing.assert_allclose(np.array(memory)[real], theirs.detach().numpy()[real], atol=1e-5)
    hidden = decode(model, batch["target"], memory, batch["source"])
    np.testing.assert_allclose(hidden, peer.decode(shifted, theirs, source).detach().numpy(), atol=1e-5)
    logits = peer(source, shifted).detach().numpy()
    np.testing.assert_allclose(forward(model, batch["source"], batch["target"]), logits, atol=1e-5)


def test_label_smoothed_loss_and_every_gradient(peer, batch):
    theirs = peer.loss(*in_torch(batch))
    theirs.backward()

    def loss(params):
        model = nnx.merge(graph_of(CONFIG), params)
        return cross_entropy(model(batch["source"], batch["target"]), batch["target"], SMOOTHING)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(as_ours(peer, lambda parameter: parameter))
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-6)
    expected = as_ours(peer, lambda parameter: parameter.grad)
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
