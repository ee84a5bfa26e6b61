"""The charts of `report --html` as plotly.js takes them: data and layout, without a plotting object.

Colours are names of the page's style sheet, which knows a light and a dark theme.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipectl.commands.report.text import filled, scenario_name, share

if TYPE_CHECKING:
    from datetime import datetime

    from pipectl.pipeline.reporting import Amounts, Hour, LabelLag, Report

TRANSACTIONS, FRAUD = "var(--transactions)", "var(--fraud)"
TRANSACTIONS_FILL, FRAUD_FILL = "var(--transactions-fill)", "var(--fraud-fill)"
INK, QUIET, GRID, CARD, LINE = "var(--ink)", "var(--quiet)", "var(--grid)", "var(--card)", "var(--line)"
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
# From here on a column per hour is thinner than a pixel or two.
DAYS_FROM_HOURS = 24 * 10
VIEWS_FROM_HOURS = 24 * 2
FEWEST_HOURS = 12
ROW_HEIGHT = 74
# Below this plotly.js puts ticks between whole numbers.
FEW = 5

Figure = dict[str, Any]


def over_time(hours: tuple[Hour, ...], *, frauds: bool) -> Figure:
    """Transactions above, frauds below, on one axis of time; by hour or by day, as the reader likes."""
    every = filled(hours)
    days = _by_day(every)
    by_day = len(every) > DAYS_FROM_HOURS
    data: list[Figure] = []
    for points, step, shown in ((every, HOUR_MS, not by_day), (days, DAY_MS, by_day)):
        data.append(_columns(points, step, "transactions", shown=shown))
        if frauds:
            data.append(_columns(points, step, "frauds", shown=shown))
    layout = _layout(height=430 if frauds else 280, margin={"t": 40, "r": 12, "b": 34, "l": 62})
    layout |= {
        "showlegend": False,
        "bargap": 0.08,
        "hovermode": "x unified",
        "xaxis": _axis()
        | {
            "type": "date",
            "anchor": "y2" if frauds else "y",
            "showgrid": False,
            "rangeselector": _ranges(len(every)),
        },
        "yaxis": _axis()
        | {"title": {"text": "transactions"}, "tickformat": ",", "domain": [0.42, 1] if frauds else [0, 1]},
    }
    if frauds:
        highest = max(day.frauds for day in days)
        layout["yaxis2"] = (
            _axis() | {"title": {"text": "frauds"}, "domain": [0, 0.34]} | _whole_numbers(highest)
        )
    if len(every) < FEWEST_HOURS:  # one hour alone would get an axis of milliseconds
        end = every[-1].start + timedelta(hours=1)
        layout["xaxis"]["range"] = [_moment(end - timedelta(hours=FEWEST_HOURS)), _moment(end)]
    figure: Figure = {"id": "over-time", "data": data, "layout": layout}
    if len(every) > VIEWS_FROM_HOURS:
        # Which traces a button shows; the page makes the buttons.
        hourly = [trace["xperiod"] == HOUR_MS for trace in data]
        figure["views"] = {"per hour": hourly, "per day": [not shown for shown in hourly]}
    return figure


def time_of_day(hours: tuple[Hour, ...], *, frauds: bool) -> Figure:
    """Transactions and the share of frauds by the hour of the day."""
    transactions, fraudulent = [0] * 24, [0] * 24
    for hour in hours:
        transactions[hour.start.hour] += hour.transactions
        fraudulent[hour.start.hour] += hour.frauds
    names = [f"{hour:02}:00" for hour in range(24)]
    layout = _layout(height=340, margin={"t": 30, "r": 12, "b": 44, "l": 62})
    layout |= {
        "showlegend": False,
        "bargap": 0.15,
        "hovermode": "x unified",
        "xaxis": _axis()
        | {"anchor": "y2" if frauds else "y", "dtick": 3, "showgrid": False, "title": {"text": "hour (UTC)"}},
        "yaxis": _axis()
        | {"title": {"text": "transactions"}, "tickformat": ",", "domain": [0.48, 1] if frauds else [0, 1]},
    }
    data = [
        {
            "type": "bar",
            "x": names,
            "y": transactions,
            "marker": {"color": TRANSACTIONS},
            "hovertemplate": "%{y:,} transactions<extra></extra>",
        }
    ]
    if frauds:
        shares = [
            part / whole if whole else None for part, whole in zip(fraudulent, transactions, strict=True)
        ]
        layout["yaxis2"] = _axis() | {
            "title": {"text": "fraud share"},
            "domain": [0, 0.38],
            "tickformat": ".1%",
            "rangemode": "tozero",
        }
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": names,
                "y": shares,
                "yaxis": "y2",
                "customdata": fraudulent,
                "line": {"color": FRAUD, "width": 2},
                "marker": {"color": FRAUD, "size": 6},
                "hovertemplate": "%{y:.2%} fraud (%{customdata:,})<extra></extra>",
            }
        )
    return {"id": "time-of-day", "data": data, "layout": layout}


def amounts(scenarios: tuple[Amounts, ...]) -> Figure:
    """A row per scenario: which share of its transactions has an amount of that size."""
    data, shapes, notes = [], [], []
    layout = _layout(height=ROW_HEIGHT * len(scenarios) + 60, margin={"t": 30, "r": 12, "b": 48, "l": 190})
    band = 1 / len(scenarios)
    # The honest ones on top; plotly counts from below.
    for row, scenario in enumerate(reversed(scenarios), start=1):
        number = "" if row == 1 else str(row)
        color, fill = (FRAUD, FRAUD_FILL) if scenario.scenario else (TRANSACTIONS, TRANSACTIONS_FILL)
        edges = [item for item in scenario.bins for _ in range(2)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [x for item in scenario.bins for x in (item.low, item.high)],
                "y": [item.transactions / scenario.transactions for item in edges],
                "customdata": [[item.low, item.high, item.transactions] for item in edges],
                "yaxis": f"y{number}",
                "name": scenario_name(scenario.scenario),
                "line": {"color": color, "width": 1.5},
                "fill": "tozeroy",
                "fillcolor": fill,
                "hovertemplate": "%{customdata[0]:,.4~r} to %{customdata[1]:,.4~r}: %{y:.1%}"
                " (%{customdata[2]:,})<extra>%{fullData.name}</extra>",
            }
        )
        low = (row - 1) * band
        layout[f"yaxis{number}"] = _axis() | {
            "domain": [low, low + band * 0.82],
            "visible": False,
            "rangemode": "tozero",
            "fixedrange": True,
        }
        shapes.append(
            {
                "type": "line",
                "xref": "x",
                "yref": f"y{number} domain",
                "x0": scenario.median,
                "x1": scenario.median,
                "y0": 0,
                "y1": 1,
                "line": {"color": INK, "width": 1.5, "dash": "dot"},
            }
        )
        notes.append(
            {
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "xanchor": "right",
                "xshift": -12,
                "y": low + band * 0.38,
                "yanchor": "middle",
                "align": "right",
                "showarrow": False,
                "text": f"<b>{scenario_name(scenario.scenario)}</b><br>{scenario.transactions:,} · "
                f"median {scenario.median:,.2f}",
                "font": {"size": 12, "color": INK},
            }
        )
    layout |= {
        "showlegend": False,
        "shapes": shapes,
        "annotations": notes,
        "xaxis": _axis()
        | {
            "type": "log",
            "anchor": "y",
            "title": {"text": "amount (logarithmic)"},
            "tickformat": ",~r",
            "dtick": 1,
        },
    }
    return {"id": "amounts", "data": data, "layout": layout}


def labelled(report: Report) -> Figure:
    """Frauds of each scenario beside the labels that name it."""
    scenarios = [scenario for scenario in reversed(report.amounts) if scenario.scenario]
    names = [scenario_name(scenario.scenario) for scenario in scenarios]
    layout = _layout(height=46 * len(scenarios) + 110, margin={"t": 30, "r": 12, "b": 44, "l": 190})
    layout |= {
        "barmode": "group",
        "bargap": 0.3,
        "hovermode": "y unified",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "reversed"},
        "xaxis": _axis() | {"title": {"text": "transactions"}, "tickformat": ","},
        "yaxis": _axis() | {"showgrid": False},
    }
    series = (
        ("labels", TRANSACTIONS, [scenario.labelled for scenario in scenarios]),
        ("ground truth", FRAUD, [scenario.transactions for scenario in scenarios]),
    )
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "x": values,
            "y": names,
            "marker": {"color": color},
            "hovertemplate": "%{x:,}",
        }
        for name, color, values in series
    ]
    return {"id": "labelled", "data": data, "layout": layout}


def lag(name: str, label_lag: LabelLag) -> Figure:
    """The share of transactions that had their label within so many seconds."""
    layout = _layout(height=340, margin={"t": 30, "r": 16, "b": 44, "l": 62})
    layout |= {
        "showlegend": False,
        "xaxis": _axis() | {"title": {"text": "seconds from transaction to label"}, "rangemode": "tozero"},
        "yaxis": _axis() | {"title": {"text": "share labelled"}, "tickformat": ".0%", "range": [0, 1.03]},
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": list(label_lag.percentiles),
        "y": [percent / 100 for percent in range(101)],
        "line": {"color": TRANSACTIONS, "width": 2, "shape": "hv"},
        "fill": "tozeroy",
        "fillcolor": TRANSACTIONS_FILL,
        "hovertemplate": "%{y:.0%} within %{x:,.2f} s<extra></extra>",
    }
    return {"id": name, "data": [line], "layout": layout}


def _columns(points: list[Hour], step: int, name: str, *, shown: bool) -> Figure:
    frauds = name == "frauds"
    noun = "day" if step == DAY_MS else "hour"
    return {
        "type": "bar",
        "x": [_moment(point.start) for point in points],
        "width": round(step * 0.92),
        "y": [point.frauds if frauds else point.transactions for point in points],
        "customdata": [share(point.frauds, point.transactions) for point in points] if frauds else None,
        "xperiod": step,
        "xperiodalignment": "middle",
        "xhoverformat": "%a %e %b %Y" if step == DAY_MS else "%a %e %b %Y, %H:%M UTC",
        "yaxis": "y2" if frauds else "y",
        "visible": shown,
        "name": name,
        "marker": {"color": FRAUD if frauds else TRANSACTIONS, "line": {"width": 0}},
        "hovertemplate": (
            "%{y:,} frauds (%{customdata})<extra></extra>"
            if frauds
            else f"%{{y:,}} transactions in the {noun}<extra></extra>"
        ),
    }


def _by_day(hours: list[Hour]) -> list[Hour]:
    from pipectl.pipeline.reporting import Hour  # noqa: PLC0415

    days: dict[Any, Hour] = {}
    for hour in hours:
        start = hour.start - timedelta(hours=hour.start.hour)
        known = days.get(start, Hour(start, 0, 0))
        days[start] = Hour(start, known.transactions + hour.transactions, known.frauds + hour.frauds)
    return list(days.values())


def _ranges(hours: int) -> Figure:
    steps = [("24 h", "hour", 24, 24), ("7 days", "day", 7, 24 * 7), ("30 days", "day", 30, 24 * 30)]
    buttons: list[Figure] = [
        {"label": label, "step": step, "count": count, "stepmode": "backward"}
        for label, step, count, needed in steps
        if hours > needed
    ]
    return {
        "visible": bool(buttons),
        "buttons": [*buttons, {"label": "all", "step": "all"}],
        "bgcolor": CARD,
        "activecolor": GRID,
        "bordercolor": LINE,
        "borderwidth": 1,
        "font": {"color": INK},
        "x": 0,
        "y": 1.03,
        "yanchor": "bottom",
    }


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M")


def _whole_numbers(highest: int) -> Figure:
    """Ticks of an axis of counts: none between 1 and 2."""
    few = {"dtick": 1} if highest else {"range": [0, 1], "dtick": 1}
    return {"rangemode": "tozero", "tickformat": ","} | (few if highest < FEW else {})


def _layout(*, height: int, margin: dict[str, int]) -> Figure:
    return {
        "height": height,
        "margin": margin,
        "paper_bgcolor": CARD,
        "plot_bgcolor": CARD,
        "font": {"family": FONT, "size": 12, "color": INK},
        "hoverlabel": {"bgcolor": CARD, "bordercolor": LINE, "font": {"color": INK, "family": FONT}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": QUIET, "activecolor": INK},
        "separators": ".,",
        # Redrawn in another theme, a chart stays zoomed as it is.
        "uirevision": "same",
    }


def _axis() -> Figure:
    return {
        "gridcolor": GRID,
        "linecolor": LINE,
        "zeroline": False,
        "tickfont": {"color": QUIET},
        "automargin": True,
    }
