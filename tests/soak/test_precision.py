"""The fast mode on all photographs. Minutes where the processor emulates bf16: pytest tests/soak"""

from benchmarks.precision import photographs
from tests.relprop.test_precision import check_bf16, needs_photographs


@needs_photographs
def test_bf16_finds_the_maps_of_float32_on_all_photographs():
    images = photographs()
    assert len(images) == 200
    check_bf16(images)
