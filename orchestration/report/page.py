"""The report as HTML: one file, no script, nothing fetched, light and dark."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from html import escape

from orchestration.report.drift import ALPHA, LEAST_DISTANCE, Drift
from orchestration.report.month import Month

STYLE = """
:root{color-scheme:light dark;--paper:#fdfcf9;--ink:#1d2220;--quiet:#5c6661;--line:#e2e0d8;
--then:#aab8b0;--now:#0b6e5f;--warn:#9a3412;--raised:#fff;
--code:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media(prefers-color-scheme:dark){:root{--paper:#141816;--ink:#e6eae7;--quiet:#9ba8a1;
--line:#2d3532;--then:#56645d;--now:#5fd0b8;--warn:#fdba74;--raised:#1b201e}}
*{box-sizing:border-box}
html{font:16px/1.5 ui-sans-serif,system-ui,-apple-system,"Segoe UI","Noto Sans","DejaVu Sans",
sans-serif;background:var(--paper);color:var(--ink)}
body{margin:0 auto;max-width:70rem;padding:2rem 1.25rem 4rem}
h1{font:600 2rem/1.2 Charter,"Bitstream Charter",Georgia,"Noto Serif",serif;margin:0}
h2{font:600 1.25rem/1.3 Charter,"Bitstream Charter",Georgia,"Noto Serif",serif;
margin:2.5rem 0 .75rem}
p{margin:.25rem 0;max-width:46rem}.quiet,th,dt{color:var(--quiet)}.quiet{font-size:.875rem}
.warn{color:var(--warn);font-weight:600}code,.name{font-family:var(--code);font-size:.875em}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(12rem,1fr));
gap:1rem 2rem;margin:1.5rem 0}
dt{font-size:.8125rem}dd{margin:0;font-size:1.125rem;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.875rem;
font-variant-numeric:tabular-nums}th{text-align:left;font-weight:500;white-space:nowrap}
th,td{padding:.375rem .75rem .375rem 0;border-bottom:1px solid var(--line);vertical-align:top}
.n{text-align:right}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1.5rem}
figure{margin:0;padding:.875rem 1rem;background:var(--raised);border:1px solid var(--line);
border-radius:6px}figcaption{font-size:.8125rem;line-height:1.45}svg{display:block;width:100%;
height:auto;margin:.5rem 0}.key{display:inline-block;width:.75em;height:.75em;border-radius:2px;
margin:0 .35em 0 0}.key+*{margin-left:0}text{fill:var(--quiet);font:9px var(--code)}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:1rem}
"""


def page(month: Month) -> str:
    """The whole document."""
    title = f"StreamFlow features as of {month.as_of:%Y-%m-%d}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1>
{_head(month)}{_drift(month)}{_features(month)}{_freshness(month)}{_tests(month)}{_audit(month)}
<footer class="quiet">Made {_time(month.made_at)} from the publication known at
{_time(month.publication.known_at)} (code {escape(month.publication.code_version)}).
Again: <code>make report AS_OF={month.as_of:%Y-%m-%d}</code></footer>
</body></html>
"""


def _time(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC" if instant else "never"


def _table(head: str, rows: Iterable[Iterable[object]], right: Iterable[int] = ()) -> str:
    """`head` is the titles, separated by |; `right` the columns of figures. Cells are HTML."""
    numbers = set(right)

    def cells(tag: str, values: Iterable[object]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numbers else ''}>{value}</{tag}>"
            for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    titles = cells("th", head.split("|"))
    head = f"<thead><tr>{titles}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _head(month: Month) -> str:
    moved = sum(d.moved for d in month.drift)
    failing = [a for a in month.audits if a.differing or a.missing or a.extra]
    warned = [t for t in month.tests if t.status == "warn"]
    since = f"since {month.before:%Y-%m-%d}" if month.before else "(no earlier month)"
    tests = f"{month.publication.tests_run} passed"
    if warned:
        tests = f"{month.publication.tests_run - len(warned)} passed, {len(warned)} warn"
    users = max(month.rows.values(), default=0)
    facts = {
        "Users": f"{users:,}",
        f"Features moved {since}": f"{moved} of {len(month.drift)}" if month.before else "-",
        "dbt tests": tests,
        "Online equals offline": "<span class=warn>no</span>"
        if failing
        else ("yes" if month.audits else "not audited yet"),
    }
    return (
        "<dl>" + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items()) + "</dl>"
    )


def _drift(month: Month) -> str:
    if month.before is None:
        return "<h2>Drift</h2><p>This is the first month: there is nothing to compare it with.</p>"
    moved = sorted((d for d in month.drift if d.moved), key=lambda d: -d.distance)
    stirred = [d for d in month.drift if d.changed and not d.moved]
    still = len(month.drift) - len(moved) - len(stirred)
    also = ", ".join(f"<span class=name>{d.feature}</span> ({d.changed:,} users)" for d in stirred)
    plots = "".join(_figure(d) for d in [*moved, *stirred])
    return f"""<h2>What moved</h2>
<p>A feature moved when at least {100 * LEAST_DISTANCE:.0f} in 100 users would have to change value
to turn one month's distribution into the other's, and a two-sample test says that this is no
accident (Kolmogorov-Smirnov for numbers, chi-square for categories; p below {ALPHA:g} after Holm's
correction over all {len(month.drift)} features).</p>
<p class=quiet>The same users are in both months, which the tests do not use: their p-values are too
large rather than too small. PSI's bands: below 0.1 slight, below 0.25 moderate, else large.</p>
<p>{"Changed for some users, but not moved: " + also + ". " if also else ""}{still} features have
the same value as before for every user.</p>
<p class=quiet><span class=key style="background:var(--then)"></span>{month.before:%Y-%m-%d}
&nbsp; <span class=key style="background:var(--now)"></span>{month.as_of:%Y-%m-%d}
&nbsp; share of users</p><div class="plots">{plots}</div>"""


def _figure(d: Drift) -> str:
    word = "<span class=warn>moved</span>" if d.moved else "<span class=quiet>not moved</span>"
    mean = ""
    if d.mean_before is not None and d.mean is not None:
        mean = f"mean {d.mean_before:,.2f} → {d.mean:,.2f} {escape(d.unit)}<br>"
    return f"""<figure><figcaption><span class=name>{d.feature}</span> {word}</figcaption>{_plot(d)}
<figcaption class=quiet>{mean}{_share(d.distance)} of users apart, p {p_text(d.p_value)}<br>
PSI {d.psi:.3f} ({d.psi_band}), {d.changed:,} users changed</figcaption></figure>"""


def _plot(d: Drift) -> str:
    """Two bars a value: the month before, and this one."""
    width, height, gap = 240.0, 84.0, 3.0
    top = max((max(a, b) for _, a, b in d.bars), default=1) or 1
    step = width / max(len(d.bars), 1)
    bar = (step - gap) / 2
    shapes = []
    for i, (label, before, now) in enumerate(d.bars):
        tip = f"{label} {d.unit}: {_share(before)}, then {_share(now)}"
        pair = "".join(
            f'<rect x="{i * step + k * bar:.1f}" y="{height - height * share / top:.1f}" '
            f'width="{bar:.1f}" height="{height * share / top:.1f}" style="fill:var(--{color})"/>'
            for k, (share, color) in enumerate(((before, "then"), (now, "now")))
        )
        shapes.append(f"<g><title>{escape(tip)}</title>{pair}</g>")
    ends = [label.partition(" to ")[0] for label, _, _ in d.bars[:1]]
    ends += [label.rpartition(" to ")[2] for label, _, _ in d.bars[-1:]]
    labels = "".join(
        f'<text x="{x}" y="{height + 11}" text-anchor="{anchor}">{escape(end)}</text>'
        for x, anchor, end in zip((0, width), ("start", "end"), ends, strict=False)
    )
    about = f"{d.feature}: shares of users by value, both months"
    box = f'viewBox="0 0 {width:g} {height + 14:g}" role="img" aria-label="{about}"'
    return f"<svg {box}>{''.join(shapes)}{labels}</svg>"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def p_text(value: float) -> str:
    return "below 1e-15" if value < 1e-15 else f"{value:.2g}"


def _features(month: Month) -> str:
    by_name = {f"{d.table}.{d.feature}": d for d in month.drift}
    rows = []
    for table in month.tables:
        for column in table.columns:
            key = f"{table.name}.{column.name}"
            d = by_name.get(key)
            row = [table.name, f"<span class=name>{column.name}</span>", f"{month.nulls[key]:,}"]
            if d is None:
                row += ["-"] * 8
            else:
                means = ["-" if m is None else f"{m:,.3f}" for m in (d.mean_before, d.mean)]
                verdict = "<span class=warn>moved</span>" if d.moved else "no"
                row += [f"{d.nulls_before:,}", *means, f"{d.changed:,}", _share(d.distance),
                        f"{d.psi:.3f}", p_text(d.p_value), verdict]  # fmt: skip
            rows.append(row)
    counted = ", ".join(f"{name} {rows:,}" for name, rows in month.rows.items())
    head = "table|feature|nulls|nulls before|mean before|mean|users changed|distance|PSI|p|moved"
    return f"<h2>Rows, nulls and drift</h2><p class=quiet>Rows: {counted}.</p>" + _table(
        head, rows, range(2, 11)
    )


def _freshness(month: Month) -> str:
    delivered = _table(
        "raw table|loaded at|rows added|retracted|loads",
        [[d.table_name, _time(d.loaded_at), f"{d.added:,}", f"{d.retracted:,}", d.loads]
         for d in month.deliveries],
        (2, 3, 4),
    )  # fmt: skip
    online = _table(
        "online table|as of|age|publication|materialized at",
        [[v.view_name, f"{v.as_of:%Y-%m-%d}" if v.as_of else "-",
          f"{(month.made_at - v.as_of).days:,} days" if v.as_of else "-",
          _time(v.publication), _time(v.materialized_at)] for v in month.views],
        (2,),
    )  # fmt: skip
    return f"<h2>Freshness</h2>{delivered}<p>&nbsp;</p>{online}"


def _tests(month: Month) -> str:
    run = month.publication.tests_run
    told = [t for t in month.tests if t.status not in ("pass", "success")]
    quiet = run - len(told)
    rows = [
        [f"<span class=name>{escape(t.name)}</span>",
         f"<span class=warn>{escape(t.status)}</span>", f"{t.failures:,}"]
        for t in told
    ]  # fmt: skip
    table = _table("test|status|rows", rows, (2,)) if rows else ""
    end = ", these did not:" if told else "."
    return f"<h2>dbt tests</h2><p>{quiet} of {run} passed{end}</p>{table}"


def _audit(month: Month) -> str:
    rows = [
        [a.view_name, a.store, f"{a.compared:,}", a.differing, a.missing, a.extra,
         _time(a.audited_at)]
        for a in month.audits
    ]  # fmt: skip
    return "<h2>Audit: online against offline</h2>" + _table(
        "view|store|users compared|differing|missing online|only online|at", rows, (2, 3, 4, 5)
    )
