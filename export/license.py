"""The LICENSE file of a package."""

from __future__ import annotations

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

OURS = "Copyright (c) 2026 The speckv authors"

PUBLISHED_NOTICE = """\
The predictor in this folder was fitted on step records that the SpecKV paper
published (https://github.com/Amorfati123/SpecKV, results/phase2_step_results.csv)
under the MIT License, with this copyright line:

Copyright (c) 2026 Shikhar Shukla
"""

OWN_NOTICE = """\
The weights in this folder come from a pickle or from records of whoever ran the
export, and are theirs to license. The rest of the folder is under this license:
"""


def license_text(published: bool) -> str:
    """Return the licence of a package fitted on the published records, or of one whose weights are somebody's own."""
    license_of_files = f"MIT License\n\n{OURS}\n\n{MIT}"
    return f"{license_of_files}\n{PUBLISHED_NOTICE}" if published else f"{OWN_NOTICE}\n{license_of_files}"
