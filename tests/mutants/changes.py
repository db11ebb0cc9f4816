"""Mutants: changes that break the code, each of which a test must detect. `make mutants` (tests/mutants/__main__.py).

For a new invariant, add a line here: the change that its test has to detect. The tests of a change are files, or
functions in them, of the default suite, and take seconds.
"""

from typing import NamedTuple


class Change(NamedTuple):
    """One change of one file."""

    what: str
    """What is wrong with the changed code."""
    file: str
    old: str
    """A text that occurs in the file exactly once."""
    new: str
    tests: str
    """Arguments of pytest, separated by spaces."""
    equivalent: str = ""
    """Why nobody can notice; empty where one has to."""


METRICS_FILE = "experiments/evaluation/metrics.py"
MOSES_FILE = "experiments/evaluation/moses.py"
COMPARE_FILE = "experiments/evaluation/compare.py"
RECORDS_FILE = "experiments/evaluation/records.py"

ATTENTION = "tests/transformer/test_attention.py"
DECODE = "tests/transformer/test_decode.py"
LAYERS = "tests/transformer/test_layers.py"
KERNELS = "tests/transformer/test_kernels.py"
LOSS = "tests/transformer/test_loss.py"
MODEL = "tests/transformer/test_model.py"
PARALLEL = "tests/transformer/test_parallel.py"
POSITIONS = "tests/transformer/test_positions.py"
SCHEDULE = "tests/transformer/test_optimizer.py"
TRAIN = "tests/transformer/test_train.py"
BATCHING = "tests/data/test_batching.py"
SAMPLING = "tests/data/test_sampling.py"
CORPORA = "tests/data/test_corpora.py"
DATASET = "tests/data/test_dataset.py"
TOKENIZER = "tests/data/test_tokenizer.py"
DOCUMENTS = "tests/data/test_documents.py"
OF_DOCUMENTS = "tests/experiments/test_documents.py"

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
    Change("matrices begin twice as varied", "transformer/initializers.py", 'variance_scaling(1.0, "fan_avg"',
           'variance_scaling(2.0, "fan_avg"', ATTENTION),
    Change("the fans of one head, not of all", "transformer/initializers.py", "tuple(axes[inputs:])",
           "tuple(axes[inputs : inputs + 1])", ATTENTION),
    Change("keys are not rotated", "transformer/attention.py", "rotate(self.key(memory).swapaxes(1, 2))",
           "self.key(memory).swapaxes(1, 2)", ATTENTION),
    Change("queries are not rotated", "transformer/attention.py", "context.rotate(self.query(x).swapaxes(1, 2))",
           "self.query(x).swapaxes(1, 2)", ATTENTION),
    Change("the cache is written at its beginning", "transformer/attention.py", "new.keys, index, axis=3)",
           "new.keys, 0 * index, axis=3)", STEP_BY_STEP),
    # 3.5, positions
    Change("another base of the wavelengths", "transformer/positions.py", "10_000.0", "1_000.0", POSITIONS),
    Change("cosines at the even positions", "transformer/positions.py", "[jnp.sin(angles), jnp.cos(angles)]",
           "[jnp.cos(angles), jnp.sin(angles)]", POSITIONS),
    Change("all sines, then all cosines", "transformer/positions.py", "[jnp.sin(angles), jnp.cos(angles)], axis=-1",
           "[jnp.sin(angles), jnp.cos(angles)], axis=1", POSITIONS),
    Change("positions past the table begin anew", "transformer/positions.py", 'mode="clip"', 'mode="wrap"', POSITIONS),
    # GPU kernels
    Change("the kernel's keys beyond the end count", "transformer/kernels/flash_attention.py",
           "jnp.where(keys.exists[None, :], scores, -jnp.inf)", "scores", KERNELS),
    Change("the kernel forgets the maximum so far", "transformer/kernels/flash_attention.py",
           "output = output * shrunk[:, None] +", "output = output +", KERNELS),
    Change("masked scores have a gradient", "transformer/kernels/flash_attention.py",
           "jnp.where(allowed != 0, weights * (", "jnp.where(allowed >= 0, weights * (", KERNELS),
    Change("the kernel's variance is of padded columns too", "transformer/kernels/residual.py",
           "jnp.where(columns.exists[None, :], added - mean[:, None], 0.0)", "added - mean[:, None]", KERNELS),
    Change("the kernel's update has no gradient of dropout", "transformer/kernels/residual.py",
           "store(dupdate_ref, _dropped(dx, words_ref, rows, columns, rate), rows, columns)",
           "store(dupdate_ref, dx, rows, columns)", KERNELS),
    Change("the kernel's padding has a gradient", "transformer/kernels/cross_entropy.py",
           "jnp.where(real, gradient, 0.0)", "gradient", KERNELS),
    Change("the kernel's running sum is not scaled", "transformer/kernels/cross_entropy.py",
           "exps * jnp.exp(highest - new) + ", "exps + ", KERNELS),
    # 3.1, 3.3, layers
    Change("post-norm's residual has no dropout", "transformer/layers.py",
           "self.norm(x + dropout(update, self.rate, key))", "self.norm(x + update)", LAYERS),
    Change("pre-norm's residual has no dropout", "transformer/layers.py",
           "x + dropout(sublayer(self.norm(x)), self.rate, key)", "x + sublayer(self.norm(x))", LAYERS),
    Change("dropout is on the residual too", "transformer/layers.py",
           "self.norm(x + dropout(update, self.rate, key))", "self.norm(dropout(x + update, self.rate, key))",
           LAYERS),
    Change("there is no residual", "transformer/layers.py", "self.norm(x + dropout(update, self.rate, key))",
           "self.norm(dropout(update, self.rate, key))", LAYERS),
    Change("pre-norm has no norm", "transformer/layers.py", "x + dropout(sublayer(self.norm(x)), self.rate, key)",
           "x + dropout(sublayer(x), self.rate, key)", LAYERS),
    Change("dropout does not scale up what it keeps", "transformer/dropout.py", "x / kept, 0)", "x, 0)", LAYERS),
    Change("dropout keeps what it should drop", "transformer/dropout.py", "x.shape) >= jnp.uint32(threshold)",
           "x.shape) < jnp.uint32(threshold)", LAYERS),
    Change("one key for all sub-layers", "transformer/dropout.py", "list(jax.random.split(key, count))",
           "[key] * count", PLACES_OF_DROPOUT),
    Change("an encoder's two sub-layers share a key", "transformer/layers.py",
           "return self.residuals[1](x, feed_forward, keys[1])",
           "return self.residuals[1](x, feed_forward, keys[0])", PLACES_OF_DROPOUT),
    Change("a decoder's feed-forward has no dropout", "transformer/layers.py",
           "self.residuals[2](x, feed_forward, keys[2])", "self.residuals[2](x, feed_forward, None)",
           PLACES_OF_DROPOUT),
    Change("dropout depends on the position alone", "transformer/dropout.py", "_mix(_mix(place + first) ^ second)",
           "_mix(_mix(place))", LAYERS),
    Change("another non-linearity", "transformer/layers.py", "self.activation(self.inner(", "jax.nn.gelu(self.inner(",
           LAYERS),
    Change("a large epsilon in the norm", "transformer/layers.py", "epsilon=config.norm_epsilon", "epsilon=1e-3",
           LAYERS),
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
           "self.embed(source, self.position_vectors(found.position), keys[0], self.source_table)",
           "self.embed(source, self.position_vectors(found.position), None, self.source_table)", PLACES_OF_DROPOUT),
    Change("one key for both stacks", "transformer/model.py", "encoder_key, decoder_key = split_key(key, 2)",
           "encoder_key, decoder_key = key, key", PLACES_OF_DROPOUT),
    Change("one key for all encoder layers", "transformer/model.py", "x = layer(x, context, layer_key, weights)",
           "x = layer(x, context, keys[1], weights)", PLACES_OF_DROPOUT),
    Change("embeddings are not scaled", "transformer/model.py", "x *= self.config.d_model**0.5", "x *= 1.0",
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
    Change("a step writes over other hypotheses", "transformer/model.py", "context, index * K)",
           "context, index)", STEP_BY_STEP),
    Change("a step sees unused positions", "transformer/model.py", " & (positions <= index)[:, None]", "", FORCED),
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
    Change("smoothing is spread over all tokens", "transformer/loss.py",
           "wrong = smoothing / (logits.shape[-1] - 1)\n    # -sum",
           "wrong = smoothing / logits.shape[-1]\n    # -sum", LOSS),
    Change("smoothing in chunks is spread over all tokens", "transformer/loss.py",
           "smoothing / (output.table.shape[0] - 1)", "smoothing / output.table.shape[0]", LOSS),
    Change("the gradient has other smoothing", "transformer/loss.py",
           "wrong = smoothing / (logits.shape[-1] - 1)\n    is_target", "wrong = 0.0\n    is_target", LOSS),
    Change("the gradient of padding is not zero", "transformer/loss.py",
           "jnp.where((targets != PAD)[..., None], gradient, 0.0)", "gradient", LOSS),
    Change("padding counts in a chunk's loss", "transformer/loss.py",
           "jnp.where(targets != PAD, normalizer - expected, 0.0)", "normalizer - expected", LOSS),
    Change("the gradient's target is off by one position", "transformer/loss.py", "== targets[..., None]\n",
           "== targets[..., None] + 1\n", LOSS),
    Change("chunks come back in another order", "transformer/loss.py", "jnp.moveaxis(dx, 0, 2)",
           "jnp.moveaxis(dx, 0, 1)", LOSS),
    Change("the right token has too much", "transformer/loss.py",
           "(1 - smoothing - wrong) * jnp", "(1 - smoothing) * jnp", LOSS),
    Change("the right token has too much in a chunk", "transformer/loss.py", "(1 - smoothing - wrong) * right",
           "(1 - smoothing) * right", LOSS),
    Change("padding counts in the loss", "transformer/loss.py", "real = (targets != PAD).astype",
           "real = (targets == targets).astype", LOSS),
    Change("the mean, which cannot be added up", "transformer/loss.py", "(losses * real).sum(), real",
           "(losses * real).mean(), real", LOSS),
    Change("the count has the padding", "transformer/loss.py", "(targets != PAD).sum().astype",
           "(targets == targets).sum().astype", LOSS),
    Change("the gradient of the outputs is not scaled", "transformer/loss.py", "(dx * scale)", "dx", LOSS),
    Change("the gradient of the table is not scaled", "transformer/loss.py", "(dtable * scale)", "dtable", LOSS),
    Change("the table's gradient is of the last chunk", "transformer/loss.py", "total.dtable + dtable", "dtable", LOSS),
    Change("the bias's gradient is of the last chunk", "transformer/loss.py",
           "total.dbias + gradient.astype", "gradient.astype", LOSS),
    Change("the bias is not in the target's logit", "transformer/loss.py", "right += output.bias[targets]",
           "right += 0.0", LOSS),
    Change("smoothing leaves the bias out", "transformer/loss.py", "total + output.total_bias", "total", LOSS),
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
    Change("an infinite update is taken", "transformer/train.py", "g * g + p * p", "g * g",
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
    Change("evaluation is smoothed", "transformer/train.py", "merge_lora(params, experiment.lora)), batch)\n",
           "merge_lora(params, experiment.lora)), batch, smoothing=0.1)\n",
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
           "jax.lax.top_k(scores, K)", f"{DECODE}::test_a_wide_beam_finds_the_best_of_all_translations"),
    Change("a sentence that is done goes on with its batch", "transformer/decode.py",
           "where_beams(done, alive, alive_now), where_beams(done, finished, finished_now)",
           "alive_now, finished_now", BATCHMATES),
    Change("a hypothesis takes over the past of another", "transformer/decode.py",
           "history = jnp.take_along_axis(history, parents[:, :, None], axis=1)", "", FORCED),
    Change("greedy search scores what follows the end", "transformer/decode.py",
           "jnp.where(done, 0.0, each.max(axis=-1))", "each.max(axis=-1)", BATCHMATES),
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
    Change("the rows are not shuffled", "data/batching.py", "_shuffled(rows, bits)",
           "np.arange(rows)", BATCHING),
    Change("the sentences are not shuffled", "data/batching.py", "_shuffled(len(self._by_row), bits)",
           "np.arange(len(self._by_row))", BATCHING),
    Change("every epoch is the first", "data/batching.py", "self._epoch(number)  #", "self._epoch(0)  #", BATCHING),
    Change("the source's tokens are counted", "data/batching.py", 'split.lengths("target")[planned',
           'split.lengths("source")[planned', BATCHING),
    Change("the pieces of all epochs are drawn alike", "data/sampling.py", "*place, start])", "*place[1:], start])",
           SAMPLING),
    Change("all runs draw the same pieces", "data/sampling.py", "[self.seed, *place", "[*place", SAMPLING),
    Change("the source is drawn by the target's vocabulary", "data/sampling.py", "= tokenizer.source, tokenizer",
           "= tokenizer, tokenizer", SAMPLING),
    Change("unknown characters are lost", "data/sampling.py", "UNK in ids or len(other)", "len(other)", SAMPLING),
    Change("too many pieces are kept", "data/sampling.py", "or len(other) > longest else", "else", SAMPLING),
    Change("each draw goes on with the last one's generator", "data/tokenizer.py",
           "            sentencepiece.set_random_generator_seed(seed)\n", "", SAMPLING),
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
           "result.max() > self._vocab_size", BATCHING),
    Change("offsets start at 1", "data/tokens.py", "np.zeros(1, np.int64), *self._lengths",
           "np.ones(1, np.int64), *self._lengths", DATASET),
    # The vocabulary
    Change("a piece behind the end of the vocabulary has an id", "data/tokenizer.py",
           "[i if i < self._size else UNK for i in line]", "[i for i in line]", TOKENIZER),
    Change("unknown text is not looked up", "data/tokenizer.py",
           "known if i == UNK and known > UNK else i", "i", TOKENIZER),
    Change("a language code is a piece anywhere", "data/tokenizer.py", "_CODE.match(line)", "_CODE.search(line)",
           TOKENIZER),
    Change("the hash of two vocabularies is that of one", "data/tokenizer.py", "if self._source else digest",
           "if False else digest", TOKENIZER),
    Change("the source is encoded with the pieces of the target", "data/encoding.py", "(tokenizer.source, tokenizer)",
           "(tokenizer, tokenizer)", "tests/data/test_dataset.py::test_each_side_can_have_its_own_vocabulary"),
    Change("sentences have no EOS", "data/tokenizer.py", "add_eos=True", "add_eos=False", TOKENIZER),
    Change("decoding reads past EOS", "data/tokenizer.py", "takewhile(lambda i: i != EOS, (int(i) for i in ids))",
           "(int(i) for i in ids if i != EOS)", TOKENIZER),
    Change("BOS is written out", "data/tokenizer.py", "for i in kept if i not in (PAD, BOS)",
           "for i in kept if i != PAD", TOKENIZER, "sentencepiece decodes control symbols, as BOS is one, to nothing"),
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
    Change("long sentences of the test set are dropped", "data/dataset.py", "drop=training", "drop=True", DATASET),
    Change("blank pairs are not counted", "data/documents.py", "counts.blank += is_blank(pair)",
           "counts.blank += 0", DATASET),
    # Documents
    Change("an example crosses a boundary", "data/documents.py", "recent.clear()", "pass", DOCUMENTS),
    Change("an example has one sentence too many", "data/documents.py", "deque(maxlen=context)",
           "deque(maxlen=context + 1)", DOCUMENTS),
    Change("one blank side is a boundary", "data/documents.py", "if not all(map(is_blank_line, pair)):", "if False:",
           DOCUMENTS),
    Change("a long example loses its last sentences", "data/encoding.py",
           "source = source[source.index(tokenizer.source.separator) + 1 :]",
           "source = source[: source.index(tokenizer.source.separator)]", DOCUMENTS),
    Change("<sep> in a text separates sentences", "data/tokenizer.py", "user_defined_symbols=list(symbols),",
           "user_defined_symbols=[*symbols, *controls],", DOCUMENTS),
    Change("documents share a folder with sentences", "data/dataset.py",
           "config.context if config.context > 1 else None", "None", DOCUMENTS),
    Change("other names on the two sides are read", "data/corpora/own.py", "if name != other:", "if False:", DOCUMENTS),
    Change("a document sees the one before", "experiments/documents.py", "start = i + 1", "start = start",
           OF_DOCUMENTS),
    Change("the translation before is not given", "experiments/translator.py",
           "step.sources[place], step.prefixes[place] = in_context(pairs, ids, begun, *separators)",
           "step.sources[place], _ = in_context(pairs, ids, begun, *separators)", OF_DOCUMENTS),
    Change("a score includes the sentences before", "experiments/translator.py",
           "return [each[len(each) - len(target) :] for each, target in zip(found, targets, strict=True)]",
           "return found", OF_DOCUMENTS),
    Change("a predicted separator ends a line", "experiments/translator.py",
           'text = " ".join(filter(None, text.split("\\n")))', "pass", OF_DOCUMENTS),
    Change("context grows beyond that of training", "experiments/documents.py",
           "in_target + len(target)) <= longest", "in_target + len(target)) <= 10 * longest", OF_DOCUMENTS),
    Change("a group of lines forgets the one before", "experiments/cli/translating.py",
           "before = following(before, [line", "before = following([], [line", OF_DOCUMENTS),
    Change("blank lines between documents are scored", "experiments/evaluation/evaluate.py",
           "if translator.experiment.data.context > 1:", "if False:", OF_DOCUMENTS),
    Change("an equal score is a success", "experiments/inspection/contrast.py",
           "range(len(of_it) - 1, -1, -1)", "range(len(of_it))", OF_DOCUMENTS),
    Change("the context of ContraPro is that of another line", "experiments/inspection/contrast.py",
           "at += size * (1 + len(example.contrastive))", "at += size", OF_DOCUMENTS),
    Change("two lengths share a folder", "data/dataset.py", '"vocab_size", "max_length", "train_pairs")',
           '"vocab_size", "train_pairs")', DATASET),
    Change("a file of another size is read", "data/dataset.py", 'if size != facts["bytes"]:', "if size is None:",
           DATASET),
    Change("another format is read", "data/dataset.py", 'if manifest["format"] != FORMAT:',
           'if manifest["format"] is None:', DATASET),
]  # fmt: skip

MOSES = "tests/experiments/evaluation/test_moses.py"
LANGUAGES = (
    "tests/experiments/evaluation/test_metrics.py::test_chinese_is_counted_by_characters "
    "tests/experiments/evaluation/test_metrics.py::test_words_that_nothing_separates_are_not_scored_in_silence "
    "tests/experiments/evaluation/test_metrics.py::test_languages_without_spaces_are_counted_in_the_pieces_of_flores"
)
COMPARE = "tests/experiments/evaluation/test_compare.py"
ENSEMBLES = "tests/experiments/evaluation/test_ensembles.py"
COMPARED = f"{COMPARE}::test_chance_and_a_difference_are_told_apart"

SCORES = [
    Change("the score to publish is lowercased", METRICS_FILE, '"BLEU": by_bleu,',
           '"BLEU": partial(by_bleu, lowercase=True),',
           "tests/experiments/evaluation/test_metrics.py::test_a_perfect_translation_scores_100_and_case_counts"),
    Change("outputs and references are swapped", METRICS_FILE,
           "return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())\n\n\n"
           "def by_bleu_intl", "return metric.corpus_score(text.references, [text.outputs]).score, "
           "str(metric.get_signature())\n\n\ndef by_bleu_intl",
           "tests/experiments/evaluation/test_metrics.py::"
           "test_an_output_that_is_too_short_pays_for_its_length_and_not_for_what_it_lacks"),
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
    Change("an ensemble is a row of a table", "experiments/tables/runner.py", 'if "members" in record:', "if False:",
           f"{ENSEMBLES}::test_an_ensemble_is_no_row_of_a_table"),
    Change("the record of an ensemble describes its first run", RECORDS_FILE,
           "[{field: record[field] for field in OF_RUN} for record in records]",
           "[{field: records[0][field] for field in OF_RUN} for _ in records]", ENSEMBLES),
    Change("the first sample is scored, not the one that is chosen", "experiments/evaluation/evaluate.py",
           "risk.choose(language) if risk else None", "None",
           f"{ENSEMBLES}::test_the_choice_among_samples_is_scored_and_recorded"),
    Change("an edited record is read", RECORDS_FILE, 'if record.get("sha256") != content_hash(record):',
           "if False:", "tests/experiments/evaluation/test_records.py::test_a_record_that_was_edited_is_refused"),
]  # fmt: skip

WORDS = "tests/experiments/test_words.py"
RESUMING = "tests/experiments/cli/test_resuming.py"
RULES, DRAWING = "transformer/variants/decoding/rules.py", "transformer/variants/decoding/sampling.py"
VARIANTS_TESTS = "tests/transformer/variants/test_decoding.py"
BEST_WITH_A_RULE = f"{VARIANTS_TESTS}::test_a_wide_beam_with_a_rule_finds_the_best_of_the_translations_that_keep_it"
FREQUENCIES = f"{VARIANTS_TESTS}::test_samples_have_the_models_frequencies"
ALONE_OR_NOT = f"{VARIANTS_TESTS}::test_a_sentence_does_not_notice_its_batch_or_its_padding"
SAMPLE_OF = f"{VARIANTS_TESTS}::test_a_sample_depends_on_seed_line_and_its_number_alone"
SCORED = f"{VARIANTS_TESTS}::test_scores_are_those_of_forced_scoring_and_rules_hold"
MEAN = f"{VARIANTS_TESTS}::test_an_ensemble_averages_probabilities_in_searches_and_in_forced_scoring"
DECODING = "tests/experiments/test_decoding.py"

VARIANTS = [
    Change("beam search normalizes over what a rule allows", "transformer/decode.py",
           "highest - jax.nn.logsumexp(logits, axis=-1, keepdims=True)",
           "highest - jax.nn.logsumexp(logits if allowed is None else allowed, axis=-1, keepdims=True)",
           BEST_WITH_A_RULE),
    Change("one piece too few is long enough", RULES, "index < least", "index < least - 1",
           BEST_WITH_A_RULE),
    Change("the latest n-gram may be repeated at once", RULES,
           "jnp.arange(starts) + n - 1 < index", "jnp.arange(starts) + n < index", BEST_WITH_A_RULE),
    Change("rows without a piece are no unknown pieces", RULES, "(ids < pieces) & ((ids",
           "((ids", BEST_WITH_A_RULE),
    Change("rules apply within a prefix", RULES, "== token, logits, -jnp.inf)",
           "== token, allowed, -jnp.inf)", BEST_WITH_A_RULE),
    Change("a hypothesis with nothing left goes on", RULES,
           "nothing = jnp.isneginf(allowed.max(axis=-1))", "nothing = jnp.zeros(allowed.shape[:-1], bool)",
           f"{VARIANTS_TESTS}::test_where_the_rules_leave_nothing_the_output_ends"),
    Change("every step draws with one key", DRAWING, "fold_in(keys, index), odds",
           "keys, odds", FREQUENCIES),
    Change("all samples of a sentence are one", DRAWING, "(keys, jnp.arange(K)).reshape",
           "(keys, jnp.zeros(K, int)).reshape", SAMPLE_OF),
    Change("a sample depends on its row", DRAWING, "keys = jax.vmap(fold_in, (None, 0), 1)(",
           "keys = jax.vmap(jax.random.fold_in)(keys, jnp.arange(B))\n    keys = jax.vmap(fold_in, (None, 0), 1)(",
           f"{ALONE_OR_NOT}[sampling]"),
    Change("the log-probabilities of tokens are those of another hypothesis", "transformer/decode.py",
           "extended.of(kept, going_on)", "extended.of(kept, going_on)._replace(totals=extended.totals[:, :K])",
           f"{SCORED}[beam]"),
    Change("the temperature counts in the score", DRAWING,
           "jnp.take_along_axis(each, dr", "jnp.take_along_axis(each / temperature, dr",
           f"{SCORED}[sampling]"),
    Change("top-k keeps one more", DRAWING, "top_k(logits, top_k)",
           "top_k(logits, top_k + 1)", f"{VARIANTS_TESTS}::test_the_nucleus_is_the_smallest_set_that_reaches_p"),
    Change("the nucleus ends before p", DRAWING,
           "jnp.cumsum(probabilities, axis=-1) - probabilities < top_p", "jnp.cumsum(probabilities, axis=-1) < top_p",
           f"{VARIANTS_TESTS}::test_the_nucleus_is_the_smallest_set_that_reaches_p"),
    Change("the generator is the default one", DRAWING, ', impl="threefry2x32"', "",
           f"{VARIANTS_TESTS}::test_keys_do_not_depend_on_the_default_generator"),
    Change("an output may end before it contains its phrases", "transformer/variants/decoding/constraints.py",
           "jnp.where(complete, totals", "jnp.where(True, totals",
           f"{VARIANTS_TESTS}::test_a_finished_output_contains_its_phrases_even_with_a_small_beam"),
    Change("no bank of the beam for those that have met constraints", "transformer/variants/decoding/constraints.py",
           "shared_out(scores, reached.met(phrases), K)", "shared_out(scores, reached.met(phrases) * 0, K)",
           f"{VARIANTS_TESTS}::test_a_finished_output_contains_its_phrases_even_with_a_small_beam"),
    Change("a phrase is met by its last token", "transformer/variants/decoding/constraints.py", "matched = before & (",
           "matched = (", BEST_WITH_A_RULE),
    Change("no phrase is a phrase that is missing", "transformer/variants/decoding/constraints.py",
           "absent = ~jnp.any(phrases != PAD, axis=2)", "absent = jnp.zeros((B, J), bool)",
           f"{VARIANTS_TESTS}::test_no_phrases_are_no_constraint"),
    Change("a constrained sentence that is done goes on with its batch", "transformer/variants/decoding/constraints.py",
           "where_beams(done, alive, alive_now)", "alive_now", f"{ALONE_OR_NOT}[constrained]"),
    Change("the progress of another hypothesis", "transformer/variants/decoding/constraints.py",
           "progress.of(parents).after(", "progress.of(parents * 0).after(", BEST_WITH_A_RULE),
    Change("an ensemble averages logarithms", "transformer/variants/decoding/ensemble.py",
           "jax.nn.logsumexp(each, axis=0) - jnp.log(len(logits))", "each.mean(axis=0)", MEAN),
    Change("an ensemble adds probabilities of PAD and BOS", "transformer/variants/decoding/ensemble.py",
           "jax.nn.log_softmax(without_padding(one.astype(jnp.float32)))", "jax.nn.log_softmax(one)", MEAN),
    Change("the alignment is the decoder's attention to itself", "transformer/variants/decoding/alignment.py",
           "cross = weights[1::2]", "cross = weights[0::2]",
           f"{VARIANTS_TESTS}::test_the_alignment_is_the_last_layers_attention_to_the_source"),
    Change("samples are numbered by their group", "experiments/translator.py",
           "[asked.numbers[i] for i in rows], height", "list(range(len(rows))), height",
           f"{DECODING}::test_samples_depend_on_line_and_seed_and_not_on_the_batch"),
    Change("a prefix is that of another line", "experiments/translator.py", "jnp.array(pad(begun, rows,",
           "jnp.array(pad(begun, rows[::-1],",
           f"{DECODING}::test_a_translation_begins_with_its_prefix_whatever_the_batch"),
    Change("every unknown piece is the first word", "experiments/translator.py", "attended[:, : len(surfaces)].argmax",
           "attended[:, :1].argmax", f"{DECODING}::test_replaced_unknown_pieces_are_copied_from_the_source"),
    Change("words are aligned by the first piece of each", "experiments/words.py", "np.add.at(sums,",
           "np.maximum.at(sums,", WORDS),
    Change("a piece without characters is in the word before", "experiments/words.py",
           'before if after > before or piece.startswith("▁") else before - 1', "before - 1", WORDS),
    Change("the best of the samples is compared with itself", "experiments/evaluation/risk.py",
           "(counts - Counter([one])).items()", "counts.items()", "tests/experiments/evaluation/test_risk.py"),
    Change("of equal texts only one sample is compared", "experiments/translator.py",
           "found_here if choose else", "first_of_each_text(found_here) if choose else",
           "tests/experiments/evaluation/test_risk.py"),
    Change("a list that may be incomplete is kept", "experiments/cli/resuming.py",
           "lines, size = seen, offset\n            offset",
           "lines, size = number, offset\n            offset", RESUMING),
    Change("a cut line is kept", "experiments/cli/resuming.py", "file.truncate(done.size)", "file.tell()", RESUMING),
    Change("lines that keep coming delay the first", "experiments/streams.py", "if lines and due is None:", "if lines:",
           "tests/experiments/cli/test_cli.py::test_a_line_does_not_wait_for_ever_for_those_that_keep_coming"),
]  # fmt: skip

SERVICE = "tests/experiments/serving/test_service.py"
PAGE = "tests/experiments/serving/test_page.py"
BATCHER = "experiments/serving/batching.py"
APPLICATION = "experiments/serving/application.py"

SERVING = [
    Change("the longest list of a batch is everybody's", "experiments/translator.py",
           ")[: asked.counts[i]]", ")[: max(asked.counts)]",
           f"{SERVICE}::test_one_translation_is_not_searched_like_the_lists_of_others"),
    Change("a batch is one request", BATCHER, "and (not taken or", "and (not taken and",
           f"{SERVICE}::test_of_a_hundred_requests_at_once_none_is_lost_or_changed"),
    Change("what a client has left is translated", BATCHER, "if job.answer.set_running_or_notify_cancel():",
           "if job.answer.set_running_or_notify_cancel() or True:",
           f"{SERVICE}::test_a_client_that_hangs_up_takes_its_request_back"),
    Change("a client that hangs up is not noticed", APPLICATION, "    if not answer.done():\n",
           "    await asyncio.wait([answer])\n    if not answer.done():\n",
           f"{SERVICE}::test_a_client_that_hangs_up_takes_its_request_back"),
    Change("the queue has no end", BATCHER, "if self.waiting and self.waiting + count > self.max_queue:", "if False:",
           f"{SERVICE}::test_a_full_queue_is_refused_and_nothing_in_it_is_lost"),
    Change("what is taken from the queue still counts", BATCHER, "self.waiting -= len(job.wanted.texts)", "pass",
           f"{SERVICE}::test_429_says_when_to_come_back"),
    Change("one failure is that of its whole batch", BATCHER, "if len(read) == 1:", "if True:",
           f"{SERVICE}::test_a_request_that_fails_does_not_fail_its_neighbours"),
    Change("a full batch waits for more", BATCHER, "and self.waiting < size and", "and",
           f"{SERVICE}::test_a_request_waits_for_others_but_not_for_ever"),
    Change("warnings are those of the request before, too", BATCHER, "more = self.listen()", "more = warnings",
           f"{SERVICE}::test_a_warning_belongs_to_its_request"),
    Change("a search for one translation is a search for the lists of others", "experiments/translator.py",
           "max((asked.counts[i] for i in group), default=1)", "max(asked.counts, default=1)",
           f"{SERVICE}::test_one_translation_is_not_searched_like_the_lists_of_others"),
    Change("a body may have any size", APPLICATION, "if len(body) > MOST_BYTES:", "if False:",
           f"{SERVICE}::test_a_body_that_is_too_large_is_refused"),
    Change("any name of the service is answered", "experiments/serving/service.py", "(*LOOPBACK, host.lower(), found)",
           '("*",)', f"{SERVICE}::test_only_the_names_of_this_machine_are_answered"),
    Change("a page of another site may send a request", APPLICATION, '!= "application/json":', '== "":',
           f"{SERVICE}::test_another_address_method_or_type_of_content_is_refused"),
    Change("it is ready before it is", BATCHER, "if not self.ready.is_set():", "if False:",
           f"{SERVICE}::test_before_it_is_ready_it_says_so"),
    Change("texts are HTML", "experiments/serving/page.html", "made.textContent = text;", "made.innerHTML = text;",
           f"{PAGE}::test_texts_are_shown_and_not_executed"),
]  # fmt: skip

EVALB_FILE = "experiments/evaluation/evalb.py"
LINEAR_FILE = "data/treebanks/linear.py"
TREES_RULE = "transformer/variants/decoding/trees.py"

EVALB = "tests/experiments/evaluation/test_evalb.py"
LINEAR = "tests/data/treebanks/test_linear.py"
TREES = "tests/data/treebanks/test_trees.py"
TREEBANKS = "tests/data/treebanks/test_open_treebanks.py"
TREES_ALONE = "tests/transformer/variants/test_trees.py"

PARSING = [
    # EVALB
    Change("punctuation counts", EVALB_FILE, """frozenset({ROOT, EMPTY, ",", ":", "``", "''", "."})""",
           "frozenset({ROOT, EMPTY})", EVALB),
    Change("ADVP and PRT differ", EVALB_FILE, 'SAME = {"PRT": "ADVP"}', "SAME: dict[str, str] = {}", EVALB),
    Change("a bracket counts once", EVALB_FILE, "(Counter(ours) & Counter(theirs)).total()",
           "len({*ours} & {*theirs})", EVALB),
    Change("function tags count", EVALB_FILE, "        label = bare(node.label)\n", "        label = node.label\n",
           EVALB),
    Change("punctuation is what the output says", EVALB_FILE,
           "bracketing(gold, with_punctuation_of(gold, predicted)))", "bracketing(gold, predicted))", EVALB),
    Change("F1 is the mean of precision and recall", EVALB_FILE,
           "_percent(2 * self.matched, self.gold + self.predicted)", "(self.precision + self.recall) / 2", EVALB),
    Change("a length begins at its multiple of ten", EVALB_FILE, "for _ in words_of(theirs)) - 1) // step",
           "for _ in words_of(theirs))) // step", EVALB),
    # Trees as sequences
    Change("words that are left over are lost", LINEAR_FILE, "left = tuple(Word(XX, word) for word in rest)",
           "left: tuple[Word, ...] = ()", LINEAR),
    Change("any closing symbol closes", LINEAR_FILE, "while stack[-1][0] != symbol[1:]:", "while False:", LINEAR),
    Change("a constituent may be empty", LINEAR_FILE, "        if children:\n            stack",
           "        if True:\n            stack", LINEAR),
    Change("tags are always normalised", LINEAR_FILE, "node.tag if tags else XX", "XX", LINEAR),
    Change("empty elements stay", "data/treebanks/trees.py", "child.tag == EMPTY)", "child.tag == ROOT)", TREES),
    # The search that finds trees only
    Change("any label closes", TREES_RULE, "(code == -label) & (now > 0)", "(now > 0)", TREES_ALONE),
    Change("constituents may be empty", TREES_RULE, " & ~is_empty)", ")", TREES_ALONE),
    Change("an output may end before its words", TREES_RULE, "== EOS) & (left == 0)", "== EOS)", TREES_ALONE),
    Change("more words than the sentence has", TREES_RULE, "((code == WORD) & (left > 0))", "(code == WORD)",
           TREES_ALONE),
    # Treebanks
    Change("all members of an archive are read", "data/corpora/hosted.py", "not members or name in members", "True",
           TREEBANKS),
    Change("members do not identify the text", "data/corpora/hosted.py", "for file in self.files), *self.members)",
           "for file in self.files),)", TREEBANKS),
]  # fmt: skip

CLASSIFIER_FILE = "transformer/variants/classifier.py"
CLASSIFIER = "tests/transformer/variants/test_classifier.py"
LABEL_SCORES_FILE = "experiments/labels/scores.py"
LABEL_SCORES = "tests/experiments/labels/test_scores.py"
LABEL_FILES = "tests/data/labels/test_files.py"
LABEL_TARGETS = "tests/data/labels/test_targets.py"

LABELS = [
    # The encoder with a head
    Change("a text is the sum of its tokens", CLASSIFIER_FILE,
           "own / jnp.maximum(own.sum(axis=-1, keepdims=True), 1)", "own * 1.0", CLASSIFIER),
    Change("a text is the mean of its row", CLASSIFIER_FILE,
           "same_sentence(found, segments(source)) & padding_mask(source)",
           "(found.number[:, None, :, None] > 0) & padding_mask(source)", CLASSIFIER),
    Change("EOS is a label", CLASSIFIER_FILE, "jnp.where(target == EOS, PAD, target)", "target", CLASSIFIER),
    Change("special pieces are predicted", CLASSIFIER_FILE, "at[..., : UNK + 1]", "at[..., :PAD]", CLASSIFIER),
    Change("every piece counts in the score", CLASSIFIER_FILE, "jnp.where(wanted, found, 0.0)", "found", CLASSIFIER),
    # Labels as targets
    Change("a label is at the last piece of its word", "data/labels/targets.py",
           "        yield label\n        yield from [PAD] * (length - 1)\n",
           "        yield from [PAD] * (length - 1)\n        yield label\n", LABEL_TARGETS),
    Change("words of a space alone vanish", "data/labels/targets.py", """text.replace("▁", "_")""", "text",
           LABEL_FILES),
    Change("columns may change", "data/labels/files.py", "len(row) < 2 or len(row) != columns", "len(row) < 2",
           LABEL_FILES),
    Change("a document is a sentence", "data/labels/files.py", 'if row and row[0] != "-DOCSTART-":', "if row:",
           LABEL_FILES),
    # Scores
    Change("an entity begins only with B", LABEL_SCORES_FILE, "        if inside and not goes_on:\n",
           "        if inside and not goes_on and prefix in 'BS':\n", LABEL_SCORES),
    Change("the type does not matter", LABEL_SCORES_FILE, 'prefix in ("I", "E") and this == kind',
           'prefix in ("I", "E")', LABEL_SCORES),
    Change("labels without a count are 0 in the mean", LABEL_SCORES_FILE, "if found.gold or found.predicted]",
           "if found.gold]", LABEL_SCORES),
    # Saliency
    Change("rollout without the residual connection", "experiments/inspection/saliency.py",
           "(layer + np.eye(len(layer))) / 2 @ product", "layer @ product",
           "tests/experiments/test_labels.py::test_rollout_by_hand"),
]  # fmt: skip

LONG = "tests/transformer/variants/test_long.py"
RECURRENCE = "tests/transformer/variants/test_recurrence.py"
MASKED = "tests/transformer/variants/test_mask_predict.py"
SPECULATIVE = "tests/transformer/variants/test_speculative.py"
RESTRICTED_FILE = "transformer/variants/long/restricted.py"
RECURRENCE_FILE = "transformer/variants/long/recurrence.py"
LINEAR_ATTENTION = "transformer/variants/long/linear.py"
MASKED_FILE = "transformer/variants/mask_predict.py"
SPECULATIVE_FILE = "transformer/variants/decoding/speculative.py"

MODERN = "tests/transformer/variants/test_modern.py"
MODERN_FILES = "transformer/variants/modern"
ORTHOGONAL = f"{MODERN}::test_muon_makes_matrices_orthogonal_and_leaves_the_rest_to_adam"
SCHEDULE_FREE = f"{MODERN}::test_schedule_free_is_the_papers_algorithm"

TODAY = [
    Change("rotary pairs turn in both directions", f"{MODERN_FILES}/rotary.py",
           "a * sin + b * cos", "b * cos - a * sin", f"{MODERN}::test_rotary_pairs_turn_at_the_papers_wavelengths"),
    Change("scores of unit vectors are divided by sqrt(d_k)", f"{MODERN_FILES}/qk_norm.py",
           " * queries.shape[-1] ** 0.5", "",
           f"{MODERN}::test_query_key_normalization_ignores_the_length_of_queries_and_keys"),
    Change("the gate is not multiplied by the activation", f"{MODERN_FILES}/gated.py",
           "super().hidden(x) * self.gate(x)", "self.inner(x) * self.gate(x)",
           f"{MODERN}::test_a_gated_network_is_its_formula"),
    Change("padding adds to the divergence", f"{MODERN_FILES}/r_drop.py", "jnp.where(target != PAD, both_ways, 0.0)",
           "both_ways", f"{MODERN}::test_r_drop_is_its_formula"),
    Change("the last rate is 0", f"{MODERN_FILES}/wsd.py", "steps + 1 - jnp", "steps - jnp",
           f"{MODERN}::test_wsd_does_not_decay_before_the_warmup_ends_and_every_rate_is_positive"),
    Change("the decay begins before the warmup ends", f"{MODERN_FILES}/wsd.py",
           "max(min(round(DECAY * steps), steps - warmup), 0)", "round(DECAY * steps)",
           f"{MODERN}::test_wsd_does_not_decay_before_the_warmup_ends_and_every_rate_is_positive"),
    Change("the output projection is orthogonal in D and K", f"{MODERN_FILES}/muon.py",
           'MuonDimensionNumbers((0, 1), 2) if names[-2] == "output" else ', "", ORTHOGONAL),
    Change("Muon goes uphill", f"{MODERN_FILES}/muon.py", "learning_rate=-1.0", "learning_rate=1.0", ORTHOGONAL),
    Change("the rate of the step before", f"{MODERN_FILES}/schedule_free.py", "-rate(count + 1)", "-rate(count)",
           SCHEDULE_FREE),
    Change("the rate enters twice", f"{MODERN_FILES}/schedule_free.py", "-m / now", "-m", SCHEDULE_FREE),
]  # fmt: skip

NOT_ONE_BY_ONE = [
    # Long inputs
    Change("the neighbourhood is not centred", RESTRICTED_FILE, "(self.window // 2, (self.window - 1) // 2)",
           "(self.window // 2, self.window // 2)", LONG),
    Change("the last block is missing", RESTRICTED_FILE, "(-1, 0, 1)", "(-1, 0)", LONG),
    Change("blocks go around the end of a row", RESTRICTED_FILE,
           "(outside < 0) | (outside >= x.shape[1])", "outside < -len(outside)", LONG),
    Change("blocks see other sentences", RESTRICTED_FILE,
           "(number[:, :, None] == found.number[:, None, :]) & self.pattern",
           "(found.number[:, None, :] != NO_SENTENCE) & self.pattern", LONG),
    Change("a step reads too little of the cache", RESTRICTED_FILE, "min(self.window, length)",
           "min(self.window - 1, length)", LONG),
    Change("global tokens are seen twice", "transformer/variants/long/sparse.py",
           "jnp.where(is_global, NO_SENTENCE, row.number)", "row.number", LONG),
    Change("later global tokens are seen", "transformer/variants/long/sparse.py",
           "seen &= keys[:, None, :] <= queries[:, :, None]", "pass", LONG),
    Change("sums go on into the next sentence", LINEAR_ATTENTION,
           "jnp.where((sentence == open_)[:, None, None, None], sums, 0.0)", "sums", LONG),
    Change("an encoder sees earlier chunks only", LINEAR_ATTENTION, "(False,) if causal else (False, True)",
           "(False,)", LONG),
    Change("distances have the wrong sign", "transformer/variants/long/relative.py",
           "asking[:, :, None] - asked[:, None, :] + length - 1", "asked[:, None, :] - asking[:, :, None] + length - 1",
           f"{MODEL}::test_step_by_step_equals_all_at_once"),
    Change("gradients flow into the memory", RECURRENCE_FILE, "jax.lax.stop_gradient((tuple(kept), past))",
           "(tuple(kept), past)", RECURRENCE),
    Change("a row does not go on with its position", RECURRENCE_FILE, "before.tokens.position[:, -1:] + 1, 0)",
           "0, 0)", RECURRENCE),
    Change("a row begins with BOS though a sentence goes on", RECURRENCE_FILE,
           "jnp.where(inside, before.last[:, None], shifted[:, :1])", "shifted[:, :1]", RECURRENCE),
    # Mask-predict
    Change("EOS is masked too", MASKED_FILE, "(target != PAD) & (target != EOS)", "target != PAD", MASKED),
    Change("a sentence may have no mask", MASKED_FILE, "(always | (uniform[2] < rate))", "(uniform[2] < rate)", MASKED),
    Change("every token has a rate of its own", MASKED_FILE,
           "(jnp.take_along_axis(each, first, axis=1) for each in uniform[:2])", "uniform[:2]", MASKED),
    Change("the length is not learned", MASKED_FILE, "return loss + length_loss(model, memory, source, target), count",
           "return loss, count", MASKED),
    Change("the most certain are predicted again", MASKED_FILE, "jnp.where(inner, log_probs, jnp.inf)",
           "jnp.where(inner, -log_probs, jnp.inf)", MASKED),
    Change("the worst length is taken", MASKED_FILE, "scores, order = jax.lax.top_k(scores, best)",
           "scores, order = jax.lax.top_k(-scores, best)", MASKED),
    # Speculative decoding
    Change("one token too many is accepted", SPECULATIVE_FILE, "jnp.minimum(accepted, end) + 1",
           "jnp.minimum(accepted + 1, end) + 1", SPECULATIVE),
    Change("a wrong token does not end what is accepted", SPECULATIVE_FILE, "jnp.cumprod(guessed == chosen[:k]).sum()",
           "(guessed == chosen[:k]).sum()", SPECULATIVE),
    Change("an output goes on after EOS", SPECULATIVE_FILE, "(kept & (chosen == EOS)).any() | ", "", SPECULATIVE),
    Change("an output is longer than its limit", SPECULATIVE_FILE, ", limit - state.written)", ", k + 1)", SPECULATIVE),
    # Distillation
    Change("what is cut off is kept", "experiments/training/distill.py", '.split(b"\\n")[:-1]', '.split(b"\\n")',
           "tests/experiments/test_less_sequential.py"),
]  # fmt: skip

EFFECTS_FILE = "experiments/speedrun/effects.py"
INTERVALS_FILE = "experiments/evaluation/intervals.py"

SPEEDRUN_TESTS = "tests/experiments/speedrun/test_speedrun.py"

SPEEDRUN = [
    Change("a record has too few seeds", "experiments/speedrun/table.py",
           "reached(track, made) < SEEDS", "reached(track, made) < len(made)",
           SPEEDRUN_TESTS),
    Change("the batches of the first seed have the budget", "experiments/speedrun/budget.py",
           "training_plan(data, experiment.data, seed)", "training_plan(data, experiment.data, 0)", SPEEDRUN_TESTS),
    Change("post-norm varies as pre-norm does", EFFECTS_FILE,
           "one if one is other else unequal(one, other, len(ours), len(theirs))", "one", SPEEDRUN_TESTS),
    Change("a decayed rate is compared with one that is not", EFFECTS_FILE,
           ' and (ours["selection"] == "last") == (theirs["selection"] == "last")', "", SPEEDRUN_TESTS),
    Change("all degrees of freedom count", INTERVALS_FILE,
           "variance**2 / sum(share**2 / freedom for share, freedom in shares)",
           "sum(freedom for _, freedom in shares)", SPEEDRUN_TESTS),
    Change("p-values are not corrected", INTERVALS_FILE, "p * (len(order) - rank)", "p", SPEEDRUN_TESTS),
]  # fmt: skip

CHANGES = [*TRANSFORMER, *VARIANTS, *SERVING, *DATA, *SCORES, *PARSING, *LABELS, *TODAY, *NOT_ONE_BY_ONE, *SPEEDRUN]
