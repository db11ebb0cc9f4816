"""Changes that make the code wrong, each of which a test has to notice: `make mutants` (tests/mutants/__main__.py).

A new law wants a line here: the change of the code that it is there to refuse. Its tests are files, or functions of
them, of the default suite, and take seconds.
"""

from typing import NamedTuple


class Change(NamedTuple):
    """One change of one file."""

    what: str
    """What is wrong then."""
    file: str
    old: str
    """Stands in the file exactly once."""
    new: str
    tests: str
    """What pytest is given, with spaces between."""
    equivalent: str = ""
    """Why nobody can notice; empty where one has to."""


METRICS_FILE = "experiments/evaluation/metrics.py"
MOSES_FILE = "experiments/evaluation/moses.py"
COMPARE_FILE = "experiments/evaluation/compare.py"
RECORDS_FILE = "experiments/evaluation/records.py"

ATTENTION = "tests/transformer/test_attention.py"
DECODE = "tests/transformer/test_decode.py"
LAYERS = "tests/transformer/test_layers.py"
LOSS = "tests/transformer/test_loss.py"
MODEL = "tests/transformer/test_model.py"
PARALLEL = "tests/transformer/test_parallel.py"
POSITIONS = "tests/transformer/test_positions.py"
SCHEDULE = "tests/transformer/test_optimizer.py"
TRAIN = "tests/transformer/test_train.py"
BATCHING = "tests/data/test_batching.py"
CORPORA = "tests/data/test_corpora.py"
DATASET = "tests/data/test_dataset.py"
TOKENIZER = "tests/data/test_tokenizer.py"

PLACES_OF_DROPOUT = f"{MODEL}::test_dropout_is_where_the_paper_has_it_and_each_place_draws_for_itself"
IN_ONE_ROW = f"{MODEL}::test_sentences_in_one_row_are_as_alone"
STEP_BY_STEP = f"{MODEL}::test_step_by_step_equals_all_at_once"
ADAM = f"{TRAIN}::test_two_steps_follow_adam_and_the_schedule"
FORCED = f"{DECODE}::test_scores_are_what_forced_scoring_gives"
ENDLESS = f"{DECODE}::test_output_stops_at_the_input_plus_extra_length"
BATCHMATES = f"{DECODE}::test_a_sentence_does_not_notice_its_batch"
NON_FINITE = f"{TRAIN}::test_a_non_finite_step_changes_no_parameter_and_is_counted"

TRANSFORMER = [
    # 3.2, attention
    Change("scores are not scaled", "transformer/attention.py", "queries.shape[-1] ** -0.5", "1.0", ATTENTION),
    Change("scaled by the number of keys", "transformer/attention.py", "queries.shape[-1] ** -0.5",
           "keys.shape[-1] ** -0.5", ATTENTION),
    Change("scaled by d_k, not by its root", "transformer/attention.py", "queries.shape[-1] ** -0.5",
           "queries.shape[-1] ** -1.0", ATTENTION),
    Change("the bias of positions is left out", "transformer/attention.py", "scores += bias", "scores += 0 * bias",
           ATTENTION),
    Change("a row with nothing to look at is NaN", "transformer/attention.py", "jnp.finfo(scores.dtype).min)",
           "-jnp.inf)", ATTENTION),
    Change("looks at what is masked", "transformer/attention.py", "jnp.where(mask, scores,", "jnp.where(~mask, scores,",
           ATTENTION),
    Change("softmax over the queries", "transformer/attention.py", "total = exps.sum(axis=-1, keepdims=True)",
           "total = exps.sum(axis=-2, keepdims=True)", ATTENTION),
    Change("the weights given back do not sum to 1", "transformer/attention.py", "exps / total\n", "exps\n", ATTENTION),
    Change("softmax in bfloat16", "transformer/attention.py", 'einsum("BNTK,BNKS->BNTS", queries * scale, keys)',
           'einsum("BNTK,BNKS->BNTS", queries * scale, keys).astype(keys.dtype)', ATTENTION),
    Change("a position does not see itself", "transformer/attention.py", "jnp.tril(jnp.ones((length, length), bool))",
           "jnp.tril(jnp.ones((length, length), bool), -1)", ATTENTION),
    Change("a position sees what comes after", "transformer/attention.py",
           "jnp.tril(jnp.ones((length, length), bool))", "jnp.tril(jnp.ones((length, length), bool), 1)", ATTENTION),
    Change("padding is looked at", "transformer/attention.py", "(tokens != PAD)[:, None, None, :]",
           "(tokens >= PAD)[:, None, None, :]", ATTENTION),
    Change("matrices begin twice as varied", "transformer/attention.py", 'variance_scaling(1.0, "fan_avg"',
           'variance_scaling(2.0, "fan_avg"', ATTENTION),
    Change("the fans of one head, not of all", "transformer/attention.py",
           "outputs = tuple(axis for axis in range(3) if axis not in inputs)", "outputs = (2,)", ATTENTION),
    Change("keys are not turned", "transformer/attention.py", "rotate(self.key(memory).swapaxes(2, 3)).swapaxes(2, 3)",
           "self.key(memory)", ATTENTION),
    Change("queries are not rotated", "transformer/attention.py", "context.rotate(self.query(x).swapaxes(1, 2))",
           "self.query(x).swapaxes(1, 2)", ATTENTION),
    Change("the cache is written at its beginning", "transformer/attention.py", "new.keys, index, axis=3)",
           "new.keys, 0 * index, axis=3)", STEP_BY_STEP),
    # 3.5, positions
    Change("another base of the wavelengths", "transformer/positions.py", "10_000.0", "1_000.0", POSITIONS),
    Change("cosines at the even places", "transformer/positions.py", "[jnp.sin(angles), jnp.cos(angles)]",
           "[jnp.cos(angles), jnp.sin(angles)]", POSITIONS),
    Change("all sines, then all cosines", "transformer/positions.py", "[jnp.sin(angles), jnp.cos(angles)], axis=-1",
           "[jnp.sin(angles), jnp.cos(angles)], axis=1", POSITIONS),
    Change("positions past the table begin anew", "transformer/positions.py", 'mode="clip"', 'mode="wrap"', POSITIONS),
    # 3.1, 3.3, layers
    Change("post-norm's residual has no dropout", "transformer/layers.py",
           "self.norm(x + dropout(sublayer(x), self.rate, key))", "self.norm(x + sublayer(x))", LAYERS),
    Change("pre-norm's residual has no dropout", "transformer/layers.py",
           "x + dropout(sublayer(self.norm(x)), self.rate, key)", "x + sublayer(self.norm(x))", LAYERS),
    Change("dropout is on the residual too", "transformer/layers.py",
           "self.norm(x + dropout(sublayer(x), self.rate, key))", "self.norm(dropout(x + sublayer(x), self.rate, key))",
           LAYERS),
    Change("there is no residual", "transformer/layers.py", "self.norm(x + dropout(sublayer(x), self.rate, key))",
           "self.norm(dropout(sublayer(x), self.rate, key))", LAYERS),
    Change("pre-norm has no norm", "transformer/layers.py", "x + dropout(sublayer(self.norm(x)), self.rate, key)",
           "x + dropout(sublayer(x), self.rate, key)", LAYERS),
    Change("dropout does not scale up what it keeps", "transformer/layers.py", "x / (1 - threshold / 2**32), 0)",
           "x, 0)", LAYERS),
    Change("dropout keeps what it should drop", "transformer/layers.py", "x.shape) >= jnp.uint32(threshold)",
           "x.shape) < jnp.uint32(threshold)", LAYERS),
    Change("one key for all sub-layers", "transformer/layers.py", "list(jax.random.split(key, count))", "[key] * count",
           PLACES_OF_DROPOUT),
    Change("an encoder's two sub-layers share a key", "transformer/layers.py",
           "return self.residuals[1](x, self.feed_forward, keys[1])",
           "return self.residuals[1](x, self.feed_forward, keys[0])", PLACES_OF_DROPOUT),
    Change("a decoder's feed-forward has no dropout", "transformer/layers.py",
           "self.residuals[2](x, self.feed_forward, keys[2])", "self.residuals[2](x, self.feed_forward, None)",
           PLACES_OF_DROPOUT),
    Change("dropout is of the place alone", "transformer/layers.py", "_mix(_mix(place + first) ^ second)",
           "_mix(_mix(place))", LAYERS),
    Change("another non-linearity", "transformer/layers.py", "jax.nn.relu(", "jax.nn.gelu(", LAYERS),
    Change("a large epsilon in the norm", "transformer/layers.py", "epsilon=1e-6", "epsilon=1e-3", LAYERS),
    Change("the variance as a difference of squares", "transformer/layers.py", "use_fast_variance=False",
           "use_fast_variance=True", LAYERS),
    Change("the decoder does not look at the source", "transformer/layers.py",
           "self.residuals[1](x, attend_memory, keys[1])", "self.residuals[1](x, jnp.zeros_like, keys[1])",
           f"{MODEL}::test_every_prediction_depends_on_all_of_the_source_and_all_that_came_before"),
    # 3.1, 3.4, the model
    Change("the embedding has no dropout", "transformer/model.py",
           "dropout((x + positions).astype(self.config.dtype), self.config.dropout, key)",
           "(x + positions).astype(self.config.dtype)", PLACES_OF_DROPOUT),
    Change("dropout of the embedding leaves the positions out", "transformer/model.py",
           "dropout((x + positions).astype(self.config.dtype), self.config.dropout, key)",
           "(dropout(x, self.config.dropout, key) + positions).astype(self.config.dtype)",
           f"{MODEL}::test_dropout_of_the_embedding_is_on_its_sum_with_the_positions"),
    Change("the encoder's embedding has no dropout", "transformer/model.py",
           "self.embed(source, self.position_vectors(found.position), keys[0])",
           "self.embed(source, self.position_vectors(found.position))", PLACES_OF_DROPOUT),
    Change("one key for both stacks", "transformer/model.py", "encoder_key, decoder_key = split_key(key, 2)",
           "encoder_key, decoder_key = key, key", PLACES_OF_DROPOUT),
    Change("one key for all encoder layers", "transformer/model.py", "x = layer(x, context, layer_key, weights)",
           "x = layer(x, context, keys[1], weights)", PLACES_OF_DROPOUT),
    Change("embeddings are not scaled", "transformer/model.py", "axis=0) * self.config.d_model**0.5", "axis=0)",
           f"{MODEL}::test_one_matrix_embeds_both_sides_and_predicts"),
    Change("the embedding begins at 1", "transformer/model.py", "initializers.normal(config.d_model**-0.5)",
           "initializers.normal(1.0)", f"{MODEL}::test_what_the_model_begins_with"),
    Change("sources of a row see each other", "transformer/model.py",
           "mask = same_sentence(found, found) & padding_mask(source)", "mask = padding_mask(source)", IN_ONE_ROW),
    Change("targets of a row see each other", "transformer/model.py",
           "mask = same_sentence(found, found) & causal_mask(target.shape[1])",
           "mask = causal_mask(target.shape[1])", IN_ONE_ROW),
    Change("a target sees its end", "transformer/model.py",
           "mask = same_sentence(found, found) & causal_mask(target.shape[1])", "mask = same_sentence(found, found)",
           f"{MODEL}::test_no_position_sees_what_comes_after"),
    Change("a target sees the other sources of its row", "transformer/model.py",
           "AttentionContext(same_sentence(found, segments(source)) & padding_mask(source))",
           "AttentionContext(padding_mask(source))",
           IN_ONE_ROW),
    Change("the encoder sees padding behind a source without EOS", "transformer/model.py",
           "mask = same_sentence(found, found) & padding_mask(source)", "mask = same_sentence(found, found)",
           f"{MODEL}::test_padding_changes_nothing_where_no_eos_is_before_it"),
    Change("the decoder sees padding behind a source without EOS", "transformer/model.py",
           "AttentionContext(same_sentence(found, segments(source)) & padding_mask(source))",
           "AttentionContext(same_sentence(found, segments(source)))",
           f"{MODEL}::test_padding_changes_nothing_where_no_eos_is_before_it"),
    Change("a second sentence begins with the EOS of the first", "transformer/model.py",
           "jnp.where(found.position == 0, BOS, before)", "before.at[:, 0].set(BOS)",
           f"{MODEL}::test_shift_right"),
    Change("the target is not shifted", "transformer/model.py", "jnp.where(found.position == 0, BOS, before)", "target",
           f"{MODEL}::test_shift_right"),
    Change("a pre-norm encoder ends without its norm", "transformer/model.py",
           'return self.encoder_norm(x) if self.config.norm == "pre" else x', "return x",
           f"{MODEL}::test_a_stack_ends_normalised"),
    Change("a pre-norm decoder ends without its norm", "transformer/model.py",
           'return self.decoder_norm(x) if self.config.norm == "pre" else x', "return x",
           f"{MODEL}::test_a_stack_ends_normalised"),
    Change("a step ends without its norm", "transformer/model.py",
           'x = self.decoder_norm(x) if self.config.norm == "pre" else x', "", STEP_BY_STEP),
    Change("a step looks at the padding of its source", "transformer/model.py", "AttentionContext(cache.memory_mask)",
           "AttentionContext(jnp.ones_like(cache.memory_mask))", STEP_BY_STEP),
    Change("a step writes over other hypotheses", "transformer/model.py", "index=index * K)", "index=index)",
           STEP_BY_STEP),
    Change("a step looks at the empty places", "transformer/model.py", " & (positions <= index)[:, None]", "", FORCED),
    Change("a step is at the first position always", "transformer/model.py", "self.positions(index[None])[None]",
           "self.positions(0 * index[None])[None]", STEP_BY_STEP),
    Change("attention weights of the wrong kind", "transformer/model.py", "jnp.stack(decoder[0::2])",
           "jnp.stack(decoder[1::2])", f"{MODEL}::test_attention_weights_are_those_the_model_used"),
    Change("a sentence ends before its EOS", "transformer/segments.py", "tokens[:, :-1] == EOS, ((0, 0), (1, 0))",
           "tokens[:, 1:] == EOS, ((0, 0), (1, 0))", f"{MODEL}::test_segments"),
    Change("positions count the row, not the sentence", "transformer/segments.py", "index - first)",
           "index + 0 * first)", f"{MODEL}::test_segments"),
    Change("all sentences of a row have one number", "transformer/segments.py", "jnp.cumsum(starts, axis=1)",
           "jnp.ones_like(first)", f"{MODEL}::test_segments"),
    # 5.4, the loss
    Change("smoothing is spread over all tokens", "transformer/loss.py", "smoothing / (logits.shape[-1] - 1)",
           "smoothing / logits.shape[-1]", LOSS),
    Change("the right token has too much", "transformer/loss.py", "(1 - smoothing - wrong) *", "(1 - smoothing) *",
           LOSS),
    Change("padding counts in the loss", "transformer/loss.py", "real = (targets != PAD).astype",
           "real = (targets == targets).astype", LOSS),
    Change("the mean, which cannot be added up", "transformer/loss.py", "(losses * real).sum(), real",
           "(losses * real).mean(), real", LOSS),
    Change("the count has the padding", "transformer/loss.py", "(targets != PAD).sum().astype",
           "(targets == targets).sum().astype", LOSS),
    Change("the gradient of the outputs is not scaled", "transformer/loss.py", "(dx * scale)", "dx", LOSS),
    Change("the gradient of the table is not scaled", "transformer/loss.py", "(dtable * scale)", "dtable", LOSS),
    Change("the table's gradient is of the last chunk", "transformer/loss.py", "total[1] + dtable)", "dtable)", LOSS),
    Change("a bfloat16 product is not summed in float32", "transformer/matmul.py",
           ", preferred_element_type=jnp.float32", "", "tests/transformer/test_matmul.py"),
    # 5.3, the optimizer
    Change("the rate is the larger of the two", "transformer/optimizer.py", "jnp.minimum(", "jnp.maximum(", SCHEDULE),
    Change("the warm-up has another slope", "transformer/optimizer.py", "warmup_steps**-1.5", "warmup_steps**-1.0",
           SCHEDULE),
    Change("the rate does not know d_model", "transformer/optimizer.py", " * experiment.model.d_model**-0.5", "",
           SCHEDULE),
    Change("optimizer.scale is not read", "transformer/optimizer.py", "return config.scale * ", "return ", SCHEDULE),
    Change("Adam's usual beta 1", "transformer/optimizer.py", "b1=config.b1", "b1=0.8", ADAM),
    Change("Adam's usual beta 2", "transformer/optimizer.py", "b2=config.b2", "b2=0.999", ADAM),
    Change("a large epsilon", "transformer/optimizer.py", "eps=config.eps", "eps=1e-3", ADAM),
    # 5, a step
    Change("the gradient is divided by 1,000", "transformer/train.py", "g / jnp.maximum(tokens, 1)", "g / 1000.0",
           ADAM),
    Change("the gradient is a sum", "transformer/train.py", "g / jnp.maximum(tokens, 1)", "g", ADAM),
    Change("an empty batch divides by 0", "transformer/train.py", "g / jnp.maximum(tokens, 1)", "g / tokens",
           f"{TRAIN}::test_an_empty_batch_is_harmless"),
    Change("steps count from 0 in the schedule", "transformer/train.py", "learning_rate(state.step + 1, experiment)",
           "learning_rate(state.step, experiment)", ADAM),
    Change("steps go uphill", "transformer/train.py", "p - rate * d", "p + rate * d", ADAM),
    Change("an infinite update is taken", "transformer/train.py", " & jnp.isfinite(optax.tree.norm(params))", "",
           f"{TRAIN}::test_an_update_beyond_all_numbers_is_skipped_too"),
    Change("Adam remembers a skipped step", "transformer/train.py", "keep(opt_state, state.opt_state)", "opt_state",
           NON_FINITE),
    Change("a skipped step is taken", "transformer/train.py", "params=keep(params, state.params)", "params=params",
           NON_FINITE),
    Change("a good step does not end a bad row", "transformer/train.py", "jnp.where(finite, 0, state.bad_steps + 1)",
           "jnp.where(finite, state.bad_steps, state.bad_steps + 1)", NON_FINITE),
    Change("a skipped step is not counted", "transformer/train.py", "step=state.step + 1,", "step=state.step + finite,",
           NON_FINITE),
    Change("one dropout key for all parts", "transformer/train.py", "jax.random.split(key, parts)",
           "jnp.stack([key] * parts)", f"{TRAIN}::test_each_part_of_a_batch_draws_its_own_dropout"),
    Change("only the last part counts", "transformer/train.py", "jax.tree.map(jnp.add, total, (loss, tokens, grads))",
           "(loss, tokens, grads)", f"{TRAIN}::test_accumulated_gradients_are_those_of_the_whole_batch"),
    Change("parts are of neighbouring rows", "transformer/train.py",
           "x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)", "x.reshape(parts, -1, *x.shape[1:])",
           f"{TRAIN}::test_accumulated_gradients_are_those_of_the_whole_batch",
           equivalent="the same rows in other parts: all that changes is what devices have to send each other"),
    Change("dropout is drawn from the keys that drew the parameters", "transformer/train.py",
           "jax.random.fold_in(jax.random.fold_in(key, DROPOUT), step)", "jax.random.fold_in(key, step)",
           f"{TRAIN}::test_what_is_dropped_owes_nothing_to_where_the_parameters_began"),
    Change("every step drops the same", "transformer/train.py", "dropout_key(key, state.step)",
           "dropout_key(key, 0)", f"{TRAIN}::test_dropout_differs_from_step_to_step_and_from_seed_to_seed"),
    Change("evaluation is smoothed", "transformer/train.py", "return batch_loss(nnx.merge(graph, params), batch)\n",
           "return batch_loss(nnx.merge(graph, params), batch, smoothing=0.1)\n",
           f"{TRAIN}::test_evaluation_has_neither_smoothing_nor_dropout"),
    # 6.1, decoding and averaging
    Change("a search gives up by the penalty of now", "transformer/decode.py",
           "bound = alive.scores.max(axis=1) / length_penalty(limits, alpha)",
           "bound = alive.scores.max(axis=1) / length_penalty(index + 1, alpha)",
           f"{DECODE}::test_a_search_that_stops_early_finds_what_one_to_the_end_finds"),
    Change("another length penalty", "transformer/decode.py", "jnp.float32)) / 6.0) ** alpha",
           "jnp.float32)) / 5.0) ** alpha", f"{DECODE}::test_length_penalty_is_the_papers"),
    Change("the penalty forgets the EOS", "transformer/decode.py", "scores / length_penalty(index + 1, alpha), -jnp",
           "scores / length_penalty(index, alpha), -jnp", FORCED),
    Change("BOS may be written", "transformer/decode.py", "jnp.array([PAD, BOS])", "jnp.array([PAD])",
           f"{DECODE}::test_a_wide_beam_finds_the_best_of_all_translations"),
    Change("greedy search writes one token too many", "transformer/decode.py",
           "(best == EOS) | (index + 1 >= limits)", "(best == EOS) | (index >= limits)", ENDLESS),
    Change("greedy search goes on behind EOS", "transformer/decode.py", "(best == EOS) | (index + 1 >= limits)",
           "(index + 1 >= limits)", f"{DECODE}::test_greedy_takes_the_likeliest_token_up_to_its_first_eos"),
    Change("beam search writes one token too many", "transformer/decode.py", "done |= (index + 1 >= limits) | (fin",
           "done |= (index >= limits) | (fin", ENDLESS),
    Change("an output is as long as extra_length alone", "transformer/decode.py", "lengths + extra_length, 0)",
           "0 * lengths + extra_length, 0)", ENDLESS),
    Change("a beam begins with equal hypotheses", "transformer/decode.py",
           "jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf)", "jnp.zeros(K)",
           f"{DECODE}::test_hypotheses_are_distinct"),
    Change("what has ended goes on", "transformer/decode.py", "jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), K)",
           "jax.lax.top_k(scores, K)", FORCED),
    Change("a sentence that is done goes on with its batch", "transformer/decode.py",
           "where_beams(done, alive, alive_now), where_beams(done, finished, finished_now)",
           "alive_now, finished_now", BATCHMATES),
    Change("a hypothesis takes over the past of another", "transformer/decode.py",
           "history = jnp.take_along_axis(history, parents[:, :, None], axis=1)", "", FORCED),
    Change("greedy search scores what follows the end", "transformer/decode.py",
           "jnp.where(done, 0.0, log_probs.max(axis=-1))", "log_probs.max(axis=-1)", BATCHMATES),
    Change("forced scoring counts padding", "transformer/decode.py", "jnp.where(target != PAD, chosen, 0.0)", "chosen",
           f"{DECODE}::test_forced_scoring_is_a_probability"),
    Change("forced scoring gives padding a chance", "transformer/decode.py", "without_padding(model(source, target))",
           "model(source, target)", f"{DECODE}::test_forced_scoring_is_a_probability"),
    Change("the average is too small", "transformer/checkpoint.py", "leaf / count, total)",
           "leaf / (count + 1), total)",
           "tests/transformer/test_checkpoint.py::test_the_average_of_one_is_itself"),
    Change("the average is of the last one", "transformer/checkpoint.py", "jax.tree.map(jnp.add, total, params)",
           "params", "tests/transformer/test_checkpoint.py::test_average_is_the_mean_of_the_newest"),
    Change("the oldest are averaged", "transformer/checkpoint.py", "validated = (step for step in reversed(steps)",
           "validated = (step for step in (steps)",
           "tests/transformer/test_checkpoint.py::test_average_is_the_mean_of_the_newest"),
    Change("the worst is the best", "transformer/checkpoint.py", "return [min(steps, key=", "return [max(steps, key=",
           "tests/transformer/test_checkpoint.py::test_the_newest_and_the_best_are_kept"),
    # Many devices
    Change("all of the embedding is on every device", "transformer/parallel.py",
           '("embedding", P("tensor", "fsdp"))', '("embedding", P())', PARALLEL),
    Change("a matrix is not shared by fsdp", "transformer/parallel.py", '("outer/kernel", P("tensor", "fsdp"))',
           '("outer/kernel", P("tensor"))', PARALLEL),
    Change("heads are not shared", "transformer/parallel.py", '("query/kernel", P("fsdp", "tensor", None))',
           '("query/kernel", P("fsdp", None, None))', PARALLEL),
    Change("parts of a batch are not of equal size", "transformer/parallel.py",
           'mesh.shape["data"] * mesh.shape["fsdp"] * parts', 'mesh.shape["data"] * mesh.shape["fsdp"]', PARALLEL),
    Change("an array with too few axes is shared", "transformer/parallel.py", "if len(spec) > len(shape):",
           "if len(spec) > len(shape) + 1:", PARALLEL),
    Change("devices that do not fit are taken", "transformer/parallel.py", "if data * others != there:",
           "if data * others < there:", PARALLEL),
]  # fmt: skip

DATA = [
    # 5.1, batches
    Change("short sentences are dealt first", "data/batching.py", 'np.argsort(-size, kind="stable"), 0',
           'np.argsort(size, kind="stable"), 0', BATCHING),
    Change("rows are left a quarter empty", "data/batching.py", "_FILL = 0.98", "_FILL = 0.75", BATCHING),
    Change("all epochs have one order", "data/batching.py", "SeedSequence([self.seed, number])",
           "SeedSequence([self.seed])", BATCHING),
    Change("all seeds have one order", "data/batching.py", "SeedSequence([self.seed, number])",
           "SeedSequence([number])", BATCHING),
    Change("the rows are not shuffled", "data/batching.py", "_shuffled(len(self._starts) - 1, bits)",
           "np.arange(len(self._starts) - 1)", BATCHING),
    Change("the sentences are not shuffled", "data/batching.py", "_shuffled(len(self._by_row), bits)",
           "np.arange(len(self._by_row))", BATCHING),
    Change("every epoch is the first", "data/batching.py", "self._epoch(number)[index]", "self._epoch(0)[index]",
           BATCHING),
    Change("the source's tokens are counted", "data/batching.py", 'self.split.lengths("target")[self._planned',
           'self.split.lengths("source")[self._planned', BATCHING),
    Change("a process reads the rows of all", "data/batching.py", "mine = np.isin(rows, self.rows)",
           "mine = np.ones(len(rows), bool)", BATCHING),
    Change("a process puts its rows where all have them", "data/batching.py", "np.searchsorted(self.rows, rows[mine])",
           "rows[mine]", BATCHING),
    Change("a resumed stream begins anew", "data/batching.py", "self.batches[self.start + int(index)]",
           "self.batches[int(index)]", BATCHING),
    Change("rows do not split over devices", "data/batching.py", "rows // 8 * 8 if rows >= 32", "rows if rows >= 32",
           BATCHING),
    Change("a row is as wide as three sentences", "data/batching.py", "_SENTENCES = 5", "_SENTENCES = 3", BATCHING),
    Change("batches are filled up to the last one", "data/batching.py", "min(shape.rows, -(-even // 8) * 8)",
           "shape.rows", BATCHING),
    Change("sentences of a row lie on each other", "data/tokens.py",
           "column = starts - starts[np.searchsorted(rows, rows)]", "column = 0 * starts", BATCHING),
    Change("a full row is refused", "data/tokens.py", "(column + lengths).max() > width:",
           "(column + lengths).max() >= width:", BATCHING),
    Change("an id past the vocabulary is taken", "data/tokens.py", "result.max() >= self._vocab_size",
           "result.max() > self._vocab_size", DATASET),
    Change("offsets start at 1", "data/tokens.py", "np.zeros(1, np.int64), *self._lengths",
           "np.ones(1, np.int64), *self._lengths", DATASET),
    # The vocabulary
    Change("sentences have no EOS", "data/tokenizer.py", "add_eos=True", "add_eos=False", TOKENIZER),
    Change("decoding reads past EOS", "data/tokenizer.py", "takewhile(lambda i: i != EOS, (int(i) for i in ids))",
           "(int(i) for i in ids if i != EOS)", TOKENIZER),
    Change("BOS is written out", "data/tokenizer.py", "for i in kept if i not in (PAD, BOS)",
           "for i in kept if i != PAD", TOKENIZER),
    Change("text is normalised", "data/tokenizer.py", 'normalization_rule_name="identity"',
           'normalization_rule_name="nmt_nfkc"', TOKENIZER),
    Change("an id past the vocabulary is decoded", "data/tokenizer.py", "[i if 0 <= i < self.size else UNK",
           "[i if 0 <= i <= self.size else UNK", TOKENIZER),
    Change("a sample is of the beginning", "data/tokenizer.py", "kept = kept[::2]", "kept = kept[: len(kept) // 2]",
           TOKENIZER),
    Change("special ids are sentencepiece's own", "data/tokenizer.py", "if ids != (PAD, BOS, EOS, UNK):",
           "if len(ids) != 4:", TOKENIZER),
    # Text
    Change("a byte order mark is text", "data/text.py", "if number == 1:", "if number == 0:", CORPORA),
    Change("a pair with one blank side is kept", "data/text.py", 
           "is_blank_line(pair[0]) or is_blank_line(pair[1])", "is_blank_line(pair[0]) and is_blank_line(pair[1])",
           DATASET),
    Change("files of different lengths are taken", "data/text.py", "in zip_longest(left, right)",
           "in zip(left, right, strict=False)", CORPORA),
    Change("empty files are taken", "data/text.py", "if count == 0:", "if count < 0:", CORPORA),
    Change("a line that is not UTF-8 is guessed", "data/text.py", 'raw.decode("utf-8")',
           'raw.decode("utf-8", "replace")', CORPORA),
    # Prepared data
    Change("long sentences of the test set are dropped", "data/dataset.py", "max_length if training else None",
           "max_length", DATASET),
    Change("blank pairs are not counted", "data/dataset.py", "counts.blank += 1", "counts.blank += 0", DATASET),
    Change("two lengths share a folder", "data/dataset.py", '"vocab_size", "max_length", "train_pairs")',
           '"vocab_size", "train_pairs")', DATASET),
    Change("a file of another size is read", "data/dataset.py", 'if size != facts["bytes"]:', "if size is None:",
           DATASET),
    Change("another format is read", "data/dataset.py", 'if manifest["format"] != FORMAT:',
           'if manifest["format"] is None:', DATASET),
]  # fmt: skip

RUN = "tests/experiments/test_scoring.py::test_scores_equal_the_sacrebleu_command_on_the_same_files"
MOSES = "tests/experiments/test_moses.py"
LANGUAGES = (
    "tests/experiments/test_scoring.py::test_chinese_is_counted_by_characters "
    "tests/experiments/test_scoring.py::test_words_that_nothing_separates_are_not_scored_in_silence "
    "tests/experiments/test_scoring.py::test_languages_without_spaces_are_counted_in_the_pieces_of_flores"
)
COMPARE = "tests/experiments/test_compare.py"
COMPARED = f"{COMPARE}::test_chance_and_a_difference_are_told_apart"

SCORES = [
    Change("the score to publish is lowercased", METRICS_FILE, '"BLEU": by_bleu,',
           '"BLEU": partial(by_bleu, lowercase=True),',
           "tests/experiments/test_scoring.py::test_a_perfect_translation_scores_100_and_case_counts"),
    Change("outputs and references change places", METRICS_FILE,
           "return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())\n\n\n"
           "def by_bleu_intl", "return metric.corpus_score(text.references, [text.outputs]).score, "
           "str(metric.get_signature())\n\n\ndef by_bleu_intl", RUN),
    Change("Chinese is counted by words", METRICS_FILE, 'trg_lang=code', 'trg_lang="de"', LANGUAGES),
    Change("Cantonese is counted by words", METRICS_FILE, '"zh" if code in _CHINESE else code', "code",
           LANGUAGES),
    Change("Thai is counted by words", METRICS_FILE, "if code in _WITHOUT_SPACES else None",
           "if code in () else None", LANGUAGES),
    Change("text without spaces is scored in silence", METRICS_FILE,
           'if tokens != "13a" or not letters:', "if True:", LANGUAGES),
    Change("the paper's score is smoothed", METRICS_FILE, 'smooth_method="none", ', "", MOSES),
    Change("the paper's score is of French too", METRICS_FILE,
           'if primary(text.language or "") != "de":', 'if primary(text.language or "") not in ("de", "fr"):', MOSES),
    Change("the reference's punctuation is replaced too", METRICS_FILE,
           "list(map(reference_tokens, text.references))", "list(map(hypothesis_tokens, text.references))", MOSES),
    Change("the output's punctuation stays", MOSES_FILE,
           "reference_tokens(_normaliser().replace_unicode_punct(line))", "reference_tokens(line)", MOSES),
    Change("compounds stay whole", MOSES_FILE, "return split_compounds(tokens)", "return tokens", MOSES),
    Change("a dash between words makes a compound", MOSES_FILE, r'r"(\S)-(\S)"', r'r"(\S) ?- ?(\S)"',
           MOSES),
    Change("special characters are escaped", MOSES_FILE, "escape=False", "escape=True", MOSES),
    Change("the abbreviations of English", MOSES_FILE, 'MosesTokenizer("de")', 'MosesTokenizer("en")',
           MOSES),
    Change("the first system is compared with itself", COMPARE_FILE, '("B", second)', '("B", first)',
           COMPARED),
    Change("equal systems differ by chance", COMPARE_FILE, "if a.score == b.score:", "if False:",
           f"{COMPARE}::test_a_system_is_as_good_as_itself"),
    Change("two runs of one seed are two seeds", COMPARE_FILE,
           'if theirs["train"]["seed"] == ours["train"]["seed"]:', "if other is run:",
           f"{COMPARE}::test_seeds_are_compared_pair_by_pair"),
    Change("a changed output is compared", COMPARE_FILE,
           'if not file.exists() or sha256_of(file) != record.get("texts", {}).get(role):', "if not file.exists():",
           f"{COMPARE}::test_a_text_that_is_not_what_was_scored_is_refused"),
    Change("an edited record is read", RECORDS_FILE, 'if record.get("sha256") != content_hash(record):',
           "if False:", "tests/experiments/test_records.py::test_a_record_that_was_edited_is_refused"),
]  # fmt: skip

CHANGES = [*TRANSFORMER, *DATA, *SCORES]
