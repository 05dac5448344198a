"""The connection to PostgreSQL is cut wherever the shop waits for it, in every use case of a purchase."""

import pytest
from cut_wire import HOWS
from test_cut import cut_everywhere
from use_cases import USE_CASES, without_delay

from quartet import audit
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return without_delay(settings)


@pytest.mark.timeout(900)
async def test_wherever_the_line_is_cut_the_end_is_the_same(shop: Shop) -> None:
    cuts = unknown = 0
    for name, case in USE_CASES.items():
        for keyed in case.keyed:
            how = HOWS[2] if keyed else HOWS[1]  # done by the server either way
            counted = await cut_everywhere(shop, name, how, keyed=keyed, every=False)
            cuts, unknown = cuts + counted[0], unknown + counted[1]
    print(f"{len(USE_CASES)} use cases, {cuts} cuts, {unknown} told to be unknown")
    assert unknown > cuts / 2 > 0
    assert (await audit.check(shop)).violations == ()
