"""Bytes, operations and time of a compiled program, compared with counts by hand and with a measurement."""

import lzma
from pathlib import Path

import jax
import pytest

from data.batching import Shape
from experiments import EXPERIMENTS
from experiments.planning.accelerators import ACCELERATORS, find_target
from experiments.planning.hlo import Program
from experiments.planning.instructions import bytes_of
from experiments.planning.on_target import network_of, on_target, step_seconds
from experiments.planning.roofline import by_part, cost_of, line_of, part_of, seconds_of
from transformer.config import UserError

TEXT = """HloModule jit_step, is_scheduled=true

FileNames
1 "/home/me/transformer/layers.py"
2 "/home/me/transformer/train.py"
3 "/usr/lib/site-packages/flax/nnx/nn/linear.py"

FunctionNames
1 "FeedForward.__call__"
2 "make_train_step.<locals>.train_step"
3 "Linear.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=63}
2 {file_name_id=2 function_name_id=2 line=120}
3 {file_name_id=3 function_name_id=3 line=9}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}


%fused_slice (param_0: f32[10,100], param_1: s32[]) -> f32[1,100] {
  %param_0 = f32[10,100]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,100]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,100}
}

%fused_update (param_0: f32[10,100], param_1: f32[1,100], param_2: s32[]) -> f32[10,100] {
  %param_0 = f32[10,100]{1,0} parameter(0)
  %param_1 = f32[1,100]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[10,100]{1,0} dynamic-update-slice(%param_0, %param_1, %param_2, %zero)
}

%body (state: (s32[], f32[10,100])) -> (s32[], f32[10,100]) {
  %state = (s32[], f32[10,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[10,100]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,100]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused_slice
  %new = f32[10,100]{1,0} fusion(%x, %row, %i), kind=kLoop, calls=%fused_update
  ROOT %out = (s32[], f32[10,100]{1,0}) tuple(%i, %new)
}

%condition (state.1: (s32[], f32[10,100])) -> pred[] {
  %state.1 = (s32[], f32[10,100]{1,0}) parameter(0)
  ROOT %always = pred[] constant(true)
}

ENTRY %main (x: f32[10,100], w: f32[100,50], n: s32[]) -> f32[10,50] {
  %x.1 = f32[10,100]{1,0} parameter(0)
  %w.1 = f32[100,50]{1,0} parameter(1)
  %n.1 = s32[] parameter(2)
  %start = (s32[], f32[10,100]{1,0}) tuple(%n.1, %x.1)
  %loop = (s32[], f32[10,100]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"10"}}
  %y = f32[10,100]{1,0} get-tuple-element(%loop), index=1
  %gemm = (f32[10,50]{1,0}, s8[4096]{0}) custom-call(%y, %w.1), custom_call_target="__cublas$gemm", metadata={op_name="jit(step)/transpose(jvp())/dot_general" stack_frame_id=3}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %z = f32[10,50]{1,0} get-tuple-element(%gemm), index=0
  ROOT %copy = f32[10,50]{1,0} copy(%z)
}
"""  # noqa: E501
# A folder with times measured on an H100 and the programs that ran, if there is one.
MEASURED = Path(__file__).parents[3].parent / "shared" / "h100"


def test_each_kernel_is_counted_as_often_as_it_runs_and_for_what_it_moves():
    row, update, gemm, copy = Program(TEXT).kernels()
    assert (row.times, row.bytes) == (10, 10 * (400 + 4 + 400))  # the row read, its index, the row written
    assert (update.times, update.bytes) == (10, 10 * (400 + 4 + 400))  # in place: not the whole array
    assert gemm.flops == 2 * 10 * 50 * 100 and gemm.times == 1
    assert gemm.bytes == 4 * (10 * 100 + 100 * 50 + 10 * 50)  # without its workspace
    assert copy.bytes == 2 * 4 * 500 and copy.flops == 0


def test_a_kernel_belongs_to_the_part_of_the_paper_that_called_it():
    *_, gemm, copy = Program(TEXT).kernels()
    assert [frame.function for frame in gemm.frames] == ["Linear.__call__", "FeedForward.__call__", "make_train_step.<locals>.train_step"]  # noqa: E501  # fmt: skip
    assert part_of(gemm) == "feed-forward" and line_of(gemm) == "transformer/layers.py:63"
    assert part_of(copy) == "data movement" and line_of(copy) == "the compiler"
    assert set(by_part([gemm, copy], ACCELERATORS["h100"])) == {
        ("feed-forward", "backward"),
        ("data movement", "forward"),
    }


def test_a_kernel_takes_as_long_as_its_bytes_or_its_operations():
    kernels = list(Program(TEXT).kernels())
    target = ACCELERATORS["h100"]._replace(bandwidth=1e9, matmul_rate=1e12, overhead=0.0)
    assert [seconds_of(kernel, target) for kernel in kernels] == [kernel.bytes / 1e9 for kernel in kernels]
    slow = target._replace(matmul_rate=1e6, overhead=1.0)
    assert seconds_of(kernels[2], slow) == pytest.approx(1e5 / 1e6 + 1)
    assert seconds_of(kernels[0], slow) == pytest.approx(kernels[0].bytes / 1e9 + 10)
    assert cost_of(kernels, slow).seconds == pytest.approx(sum(seconds_of(kernel, slow) for kernel in kernels))


COLLECTIVES = """HloModule jit_step, is_scheduled=true, num_partitions=2

ENTRY %main (x: f32[1000], w: f32[500]) -> (f32[1000], f32[500]) {
  %x.1 = f32[1000]{0} parameter(0)
  %w.1 = f32[500]{0} parameter(1)
  %sent = f32[1000]{0} all-reduce-start(%x.1), replica_groups={{0,1}}, to_apply=%add
  %copy = f32[500]{0} copy(%w.1)
  %received = f32[1000]{0} all-reduce-done(%sent)
  %gathered = f32[500]{0} all-gather(%copy), dimensions={0}
  ROOT %out = (f32[1000]{0}, f32[500]{0}) tuple(%received, %gathered)
}
"""


def test_a_collective_is_hidden_by_what_is_computed_meanwhile():
    kernels = Program(COLLECTIVES).kernels()
    assert [kernel.opcode for kernel in kernels] == ["all-reduce-start", "copy", "all-gather"]
    target = ACCELERATORS["h100"]._replace(bandwidth=1e9, overhead=0.0, network=1e9)
    network = network_of(kernels, target)
    assert network.kinds == {"asynchronous all-reduce": 1, "all-gather": 1}
    # A ring of two, and the all-reduce goes round twice.
    assert network.sent == {"asynchronous all-reduce": 2 * 4000 / 2, "all-gather": 2000 / 2}
    assert network.seconds == pytest.approx(5000 / 1e9)
    assert str(network) == "1 asynchronous all-reduce (0 MB), 1 all-gather (0 MB)"
    assert network.hidden == pytest.approx(4000 / 1e9)  # the copy reads and writes 2,000 bytes
    assert network_of(kernels, target._replace(bandwidth=1e3)).hidden == pytest.approx(4000 / 1e9)
    assert network_of(kernels, target._replace(bandwidth=1e12)).hidden == pytest.approx(4000 / 1e12)


def test_collectives_under_way_together_share_the_network():
    text = """HloModule jit_step, is_scheduled=true, num_partitions=2

ENTRY %main (x: f32[1000], y: f32[1000]) -> f32[1000] {
  %x = f32[1000]{0} parameter(0)
  %y = f32[1000]{0} parameter(1)
  %first = f32[1000]{0} all-reduce-start(%x), to_apply=%add
  %second = f32[1000]{0} all-reduce-start(%y), to_apply=%add
  %copy = f32[1000]{0} copy(%y)
  %one = f32[1000]{0} all-reduce-done(%first)
  %other = f32[1000]{0} all-reduce-done(%second)
  ROOT %sum = f32[1000]{0} add(%one, %other)
}
"""
    kernels = Program(text).kernels()
    target = ACCELERATORS["h100"]._replace(bandwidth=2e9, overhead=0.0, network=1e9)
    network = network_of(kernels, target)  # twice 4 microseconds, and a copy of 4
    assert network.seconds == pytest.approx(8e-6) and network.hidden == pytest.approx(4e-6)
    assert step_seconds(kernels, network, target) == pytest.approx(4e-6 + 4e-6 + 12e-6 / 2)


@pytest.mark.parametrize(
    "groups, size",
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0'}", 4),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", 8),
        ("mesh['axis_0'=8] {'axis_0':(1)2}", 2),
        ("{}", 8),
    ],
)
def test_a_collective_sends_as_much_as_its_group_needs_wherever_its_arrays_are(groups, size):
    text = f"""HloModule jit_step, is_scheduled=true, num_partitions=8

ENTRY %main (x: bf16[100]) -> bf16[100] {{
  %x.1 = bf16[100]{{0:T(256)S(1)}} parameter(0)
  %sum = bf16[100]{{0:T(256)S(1)}} all-reduce(%x.1), channel_id=1, replica_groups={groups}, to_apply=%add
  ROOT %next = bf16[100]{{0:T(256)S(1)}} collective-permute(%sum), source_target_pairs={{{{0,1}},{{1,0}}}}
}}
"""
    total, passed = Program(text).kernels()
    assert total.network_bytes == pytest.approx(200 * 2 * (size - 1) / size)
    assert passed.network_bytes == 200
    assert total.bytes == passed.bytes == 0  # on the chip, not in memory
    assert network_of([total, passed], ACCELERATORS["v5e"]).kinds == {"all-reduce": 1, "collective-permute": 1}


FUSED = """HloModule jit_step, is_scheduled=true, num_partitions=8

%start (param: bf16[64,8]) -> (bf16[64,8], bf16[64,64], u32[]) {
  %param = bf16[64,8]{1,0:S(1)} parameter(0)
  %gather = bf16[64,64]{1,0} all-gather(%param), channel_id=45, replica_groups=[1,8]<=[8], dimensions={1}
  ROOT %started = (bf16[64,8]{1,0:S(1)}, bf16[64,64]{1,0:S(1)}, u32[]{:S(2)}) custom-call(%gather), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (param.1: bf16[64,8], param.2: f32[1000]) -> (f32[1000], bf16[64,64]) {
  %param.1 = bf16[64,8]{1,0:S(1)} parameter(0)
  %param.2 = f32[1000]{0} parameter(1)
  %negative = f32[1000]{0} negate(%param.2)
  %gather.1 = bf16[64,64]{1,0:S(1)} all-gather(%param.1), channel_id=45, replica_groups=[1,8]<=[8], dimensions={1}
  ROOT %both = (f32[1000]{0}, bf16[64,64]{1,0:S(1)}) tuple(%negative, %gather.1)
}

%wait (param.3: bf16[64,8]) -> bf16[64,64] {
  %param.3 = bf16[64,8]{1,0:S(1)} parameter(0)
  %gather.2 = bf16[64,64]{1,0} all-gather(%param.3), channel_id=45, replica_groups=[1,8]<=[8], dimensions={1}
  ROOT %there = bf16[64,64]{1,0:S(1)} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (param.4: f32[1600], param.5: f32[800]) -> (f32[200], f32[100]) {
  %param.4 = f32[1600]{0} parameter(0)
  %param.5 = f32[800]{0} parameter(1)
  %sum = (f32[1600]{0}, f32[800]{0}) all-reduce(%param.4, %param.5), channel_id=46, replica_groups=[1,8]<=[8], to_apply=%add
  %one = f32[1600]{0} get-tuple-element(%sum), index=0
  %other = f32[800]{0} get-tuple-element(%sum), index=1
  %zero = s32[] constant(0)
  %own = f32[200]{0} dynamic-slice(%one, %zero), dynamic_slice_sizes={200}
  %own.1 = f32[100]{0} dynamic-slice(%other, %zero), dynamic_slice_sizes={100}
  ROOT %parts = (f32[200]{0}, f32[100]{0}) tuple(%own, %own.1)
}

%body (state: (bf16[64,8], f32[1000])) -> (bf16[64,8], f32[1000]) {
  %state = (bf16[64,8]{1,0:S(1)}, f32[1000]{0}) parameter(0)
  %part = bf16[64,8]{1,0:S(1)} get-tuple-element(%state), index=0
  %x = f32[1000]{0} get-tuple-element(%state), index=1
  %step = (f32[1000]{0}, bf16[64,64]{1,0:S(1)}) fusion(%part, %x), kind=kCustom, calls=%async_collective_fusion.1
  %y = f32[1000]{0} get-tuple-element(%step), index=0
  ROOT %next = (bf16[64,8]{1,0:S(1)}, f32[1000]{0}) tuple(%part, %y)
}

ENTRY %main (w: bf16[64,8], x: f32[1000], g: f32[1600], h: f32[800]) -> (f32[200], f32[100]) {
  %w = bf16[64,8]{1,0:S(1)} parameter(0)
  %x.1 = f32[1000]{0} parameter(1)
  %g = f32[1600]{0} parameter(2)
  %h = f32[800]{0} parameter(3)
  %started.1 = (bf16[64,8]{1,0:S(1)}, bf16[64,64]{1,0:S(1)}, u32[]{:S(2)}) fusion(%w), kind=kCustom, calls=%start
  %state.1 = (bf16[64,8]{1,0:S(1)}, f32[1000]{0}) tuple(%w, %x.1)
  %loop = (bf16[64,8]{1,0:S(1)}, f32[1000]{0}) while(%state.1), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  %whole = bf16[64,64]{1,0:S(1)} fusion(%w), kind=kCustom, calls=%wait
  ROOT %scattered = (f32[200]{0}, f32[100]{0}) fusion(%g, %h), kind=kCustom, calls=%all-reduce-scatter
}
"""  # noqa: E501


def test_a_tpus_collectives_are_found_in_its_fusions_and_each_counts_once():
    kernels = Program(FUSED).kernels()
    assert [kernel.opcode for kernel in kernels] == ["all-gather-start", "fusion", "reduce-scatter"]
    gather, loop, scatter = kernels
    assert gather.network_bytes == pytest.approx(64 * 64 * 2 * 7 / 8)
    assert scatter.network_bytes == pytest.approx(2400 * 4 * 7 / 8)
    assert loop.network_bytes == 0 and loop.times == 4
    target = ACCELERATORS["v5e"]._replace(bandwidth=1e9, network=1e9, overhead=0.0)
    network = network_of(kernels, target)
    assert network.kinds == {"asynchronous all-gather": 1, "reduce-scatter": 1}
    assert network.hidden == pytest.approx(gather.network_bytes / 1e9)  # the loop takes 4 x 8,000 bytes, or longer


@pytest.mark.parametrize("text", ["", "HloModule nothing", "module @jit_step {\n}\n"])
def test_a_text_that_is_no_program_is_refused(text):
    with pytest.raises(UserError, match="not the text of a compiled program"):
        Program(text)


@pytest.mark.parametrize(
    "shape, size",
    [("f32[]", 4), ("bf16[2,3]{1,0}", 12), ("(s32[], f32[8]{0}, pred[5]{0})", 41), ("token[]", 0), ("s4[10]", 5)],
)
def test_bytes_of_a_shape(shape, size):
    assert bytes_of(shape) == size


@pytest.mark.parametrize(
    "name, found", [("h100", ("h100", 1)), ("8xH100", ("h100", 8)), ("v5e-8", ("v5e", 8)), ("1xa100", ("a100", 1))]
)
def test_targets_are_named_as_people_name_them(name, found):
    target, count = find_target(name)
    assert (target.name, count) == found


@pytest.mark.parametrize("name", ["", "h1000", "0xh100", "8xh100-8", "x", "8x", "16xh100", "v5e-512", "h100 "])
def test_what_is_no_target_is_refused(name):
    with pytest.raises(UserError, match="target"):
        find_target(name)


def test_what_does_not_fit_is_said_and_not_predicted(monkeypatch):
    def lines(compiled):
        monkeypatch.setattr("experiments.planning.on_target.compile_for", compiled)
        return "\n".join(on_target(EXPERIMENTS["wmt14-en-de-base"], Shape(168, 144, 144), 0.95, "h100"))

    def refuses(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.")

    def breaks(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: it broke")

    assert "DOES NOT FIT" in lines(refuses) and "step" not in lines(refuses)
    with pytest.raises(jax.errors.JaxRuntimeError, match="it broke"):
        lines(breaks)
    monkeypatch.setattr("experiments.planning.on_target.memory_of", lambda compiled: 70e9)
    told = lines(lambda *_: None)  # more than JAX uses, though less than there is
    assert "70.00 GB per device, exact, of the 64 GB that JAX uses of 85 GB" in told and "DOES NOT FIT" in told


@pytest.mark.skipif(not MEASURED.is_dir(), reason="the measurements are not here")
def test_the_prediction_for_base_is_near_what_an_h100_took():
    [path] = MEASURED.glob("base-step-h100-*.hlo.txt.xz")
    predicted = cost_of(Program(lzma.decompress(path.read_bytes()).decode()).kernels(), ACCELERATORS["h100"])
    assert predicted.seconds == pytest.approx(57.1e-3, rel=0.07)


TPU = """HloModule jit_step, is_scheduled=true

%condition (state: (s32[], f32[8])) -> pred[] {
  %limit = s32[] constant(3)
  %state = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (state.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state.1 = (s32[], f32[8]{0}) parameter(0)
  %j = s32[] get-tuple-element(%state.1), index=0
  %x = f32[8]{0} get-tuple-element(%state.1), index=1
  %y = f32[8]{0} copy(%x)
  ROOT %next = (s32[], f32[8]{0}) tuple(%j, %y)
}

ENTRY %main (a: bf16[21,8,144,64], b: bf16[21,8,64,100], s: f32[8]) -> f32[21,8,144,100] {
  %a = bf16[21,8,144,64]{3,2,1,0} parameter(0)
  %b = bf16[21,8,64,100]{3,2,1,0} parameter(1)
  %s = f32[8]{0} parameter(2)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8]{0}) tuple(%zero, %s)
  %loop = (s32[], f32[8]{0}) while(%start), condition=%condition, body=%body
  %near = (bf16[21,8,64,100]{3,2,1,0:T(8,128)S(1)}, bf16[21,8,64,100]{3,2,1,0}, u32[]) copy-start(%b)
  %there = bf16[21,8,64,100]{3,2,1,0:T(8,128)S(1)} copy-done(%near)
  %joined = bf16[21,8,64,100]{3,2,1,0:T(8,128)S(1)} custom-call(%there), custom_call_target="ConcatBitcast"
  %forward = f32[21,8,144,100]{3,2,1,0} convolution(%a, %joined), window={size=21x8 stride=20x7 lhs_dilate=21x8}, dim_labels=01bf_01io->01bf
  ROOT %other = f32[21,8,144,100]{3,2,1,0} convolution(%a, %joined), window={size=21x8 stride=21x8 pad=20_20x7_7 lhs_dilate=20x7 rhs_reversal=1x1}, dim_labels=01bf_01io->01bf
}
"""  # noqa: E501


def test_a_tpu_program_is_counted_for_what_leaves_the_chip_and_what_its_products_need():
    kernels = {kernel.name: kernel for kernel in Program(TPU).kernels()}
    assert set(kernels) == {"y", "near", "forward", "other"}
    assert kernels["y"].times == 3  # the limit of the loop's counter
    left, right, product = 21 * 8 * 144 * 64 * 2, 21 * 8 * 64 * 100 * 2, 21 * 8 * 144 * 100 * 4
    assert kernels["near"].bytes == right  # read from memory, and written on the chip
    for name in ("forward", "other"):
        assert kernels[name].bytes == left + product
        assert kernels[name].flops == 2 * 21 * 8 * 144 * 100 * 64


ASIDE = """HloModule jit_step, is_scheduled=true

ENTRY %main (i: s32[], x: f32[1000]) -> f32[1000] {
  %i = s32[] parameter(0)
  %x.1 = f32[1000]{0} parameter(1)
  %next = s32[] add(%i, %i)
  %near = (f32[1000]{0:S(1)}, f32[1000]{0}, u32[]) copy-start(%x.1)
  %there = f32[1000]{0:S(1)} copy-done(%near)
  ROOT %y = f32[1000]{0} negate(%there), backend_config={"estimated_cycles":"3000"}
}
"""


def test_a_tpu_does_scalars_and_copies_aside_and_its_compiler_estimates_the_rest():
    kernels = Program(ASIDE).kernels()
    assert [(kernel.name, kernel.is_aside, kernel.cycles) for kernel in kernels] == [
        ("next", True, 0), ("near", True, 0), ("y", False, 3000)
    ]  # fmt: skip
    tpu = ACCELERATORS["v5e"]._replace(bandwidth=1e9, overhead=1.0, clock=1e9)
    # The bytes of a copy take their time all the same: memory is shared with the other kernels.
    assert [seconds_of(kernel, tpu) for kernel in kernels] == [pytest.approx(s) for s in (12e-9, 4e-6, 4e-6)]
    assert seconds_of(kernels[2], tpu._replace(clock=1e8)) == pytest.approx(30e-6)
    unknown = Program(ASIDE.replace("3000", str(2**63 - 1))).kernels()
    assert unknown[2].cycles == 0
    gpu = ACCELERATORS["h100"]._replace(bandwidth=1e9, overhead=1.0)
    assert [seconds_of(kernel, gpu) >= 1 for kernel in kernels] == [True] * 3


OWN = r"""HloModule jit_step, is_scheduled=true

ENTRY %main (x: f32[1000]) -> f32[1000] {
  %x.1 = f32[1000]{0} parameter(0)
  ROOT %call = f32[1000]{0} custom-call(%x.1), custom_call_target="__gpu$xla.gpu.triton", backend_config={grid_x = 1 : i32, serialized_metadata = "{\22flops\22: \226000000\22}"}
}
"""  # noqa: E501


def test_a_kernel_of_ours_says_what_it_computes_and_is_taken_to_be_slower_than_a_matmul():
    [kernel] = Program(OWN).kernels()
    assert kernel.is_own and kernel.flops == 6e6 and kernel.bytes == 8000
    target = ACCELERATORS["h100"]._replace(bandwidth=1e12, matmul_rate=3e12, overhead=0.0)
    assert seconds_of(kernel, target) == pytest.approx(6e6 / 1e12)
