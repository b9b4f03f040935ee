"""The page of a check: what is known of a run on images without labels. It opens from disk, and needs no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlkit.errors import SpecError
from tlkit.files import write_atomically
from tlkit.reporting.page import Section, fill, report_page
from tlkit.runs.check import WORDS, Checked
from tlkit.words import counted

ACCURACY = """
<div class="next"><ul>
{% for line in lines %}<li>{{ line }}</li>
{% endfor %}</ul></div>
<div class="wide"><table><tr><th>estimate of the accuracy</th><th>value</th><th>95 % interval</th></tr>
<tr><td>learned from shifted held-out images</td><td>{{ '%.1f' % (100 * found.value) }} %</td>
<td>{{ '%.1f' % (100 * found.low) }} to {{ '%.1f' % (100 * found.high) }} %</td></tr>
{% for name, value in found.simple.items() %}<tr><td>{{ name }}</td>
<td>{{ '%.1f' % (100 * value) }} %</td><td></td></tr>
{% endfor %}</table></div>
<p class="soft">The first line is the answer; the others are known estimates, for comparison, and are too high where the
network is sure and wrong.{% if found.mean_error == found.mean_error %} On held-out images under synthetic shifts of a
kind that it had not learned from, the answer was off by {{ '%.1f' % (100 * found.mean_error) }} points on
average.{% endif %}</p>
"""

DRIFT = """
<div class="wide"><table><tr><th>do they differ in</th><th>p-value</th><th>for three tests</th><th>verdict</th></tr>
{% for one in tests %}<tr><td>{{ words[one.what] }}</td><td>{{ '%.3f' % one.p_value }}</td>
<td>{{ '%.3f' % one.corrected }}</td>
<td>{% if one.found %}<span class="unsafe">yes</span>{% else %}not found{% endif %}</td></tr>
{% endfor %}</table></div>
<p class="soft">Permutation tests, wrong about equal images in at most 5 % of the cases, all three together.
{% if power.shifts %}With {{ power.n }} against {{ power.n }} images, they found {{ power.found }} of the
{{ power.shifts }} synthetic shifts that cost 5 points of accuracy or more.{% endif %} They cannot tell a shift that
does no harm from one that does; the estimate of the accuracy can. Images that come in groups, such as those of one
patient, differ more than the tests assume.</p>
"""

CHANGES = """
<div class="wide"><table><tr><th>what</th><th>held-out</th><th>new</th><th>difference in standard deviations</th></tr>
{% for one in changes %}<tr><td>{{ one.name }} <span class="soft">{{ one.about }}</span></td>
<td>{{ '%.1f' % one.before }}</td><td>{{ '%.1f' % one.now }}</td>
<td>{% if one.shift is none %}{% else %}{{ '%+.2f' % one.shift }}{% endif %}</td></tr>
{% endfor %}</table></div>
<h3>Classes</h3>
<div class="wide"><table>
<tr><th>class</th><th>predicted, held-out</th><th>predicted, new</th><th>estimated share</th></tr>
{% for one in classes %}<tr><td>{{ one.name }}</td><td>{{ '%.1f' % (100 * one.before) }} %</td>
<td>{{ '%.1f' % (100 * one.now) }} %</td><td>{{ '%.1f' % (100 * one.estimated) }} %</td></tr>
{% endfor %}</table></div>
<p class="soft">The estimated share takes images of one class to look as they did in training.</p>
"""

IMAGES = """
{% if known %}<h3>Training images</h3><ul>{% for path in known[:20] %}<li>{{ path }}</li>{% endfor %}</ul>
{% if known | length > 20 %}<p class="soft">and {{ known | length - 20 }} more</p>{% endif %}{% endif %}
{% if near %}<h3>Near duplicates of training images</h3><ul>
{% for new, old in near[:20] %}<li>{{ new }} and {{ old }}</li>{% endfor %}</ul>
{% if near | length > 20 %}<p class="soft">and {{ near | length - 20 }} more</p>{% endif %}{% endif %}
<h3>Least sure of</h3>
<div class="wide"><table><tr><th>image</th><th>prediction</th><th>confidence</th></tr>
{% for path, prediction, confidence in lowest %}<tr><td>{{ path }}</td><td>{{ prediction }}</td>
<td>{{ '%.1f' % (100 * confidence) }} %</td></tr>
{% endfor %}</table></div>
"""


def write_page(checked: Checked, out: str | Path) -> Path:
    """Write the page of a check. Returns its path. Raises SpecError if `out` does not end in .html."""
    check_page_name(out)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page_of(checked))
    return out


def check_page_name(out: str | Path) -> None:
    """Raise SpecError if `out` does not end in .html."""
    if Path(out).suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"The page would be written to '{out}'. Expected a name that ends in .html.")


def page_of(checked: Checked) -> str:
    """The page of a check, as HTML."""
    sections: Sequence[Section] = (
        Section("accuracy", "Accuracy", fill(ACCURACY, {"lines": checked.sentences(), "found": checked.accuracy})),
        Section("drift", "Drift", fill(DRIFT, {"tests": checked.drift, "words": WORDS, "power": checked.power})),
        Section("changes", "What changed", fill(CHANGES, {"changes": checked.changes, "classes": checked.classes})),
        Section(
            "images",
            "Images",
            fill(IMAGES, {"known": checked.known, "near": checked.near or (), "lowest": checked.lowest}),
        ),
    )
    left_out = f", {counted(checked.problems, 'file')} left out" if checked.problems else ""
    return report_page(
        title=f"{checked.data} without labels",
        subtitle=f"{counted(checked.n, 'image')}{left_out}, checked against the run {checked.run}",
        sections=sections,
        footer="Estimates, not measurements: label some of these images to measure.",
    )
