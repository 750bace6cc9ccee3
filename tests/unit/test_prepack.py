# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from appliance.engine.prepack import rounded_rows


def test_rows_are_filled_up_to_one_of_few_numbers() -> None:
    rounded = [rounded_rows(rows) for rows in range(1, 769)]
    assert rounded[:31] == list(range(1, 32))
    assert len(set(rounded)) < 128
    for rows, filled in enumerate(rounded, start=1):
        assert rows <= filled < rows + 16
        assert (filled - rows) * 16 <= filled
        assert rounded_rows(filled) == filled
