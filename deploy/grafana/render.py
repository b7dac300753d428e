"""Dashboards as Grafana's JSON, by its own library, whose types are made from the schema of Grafana itself.

The library is pinned to the schema of Grafana 11.6, which later ones read, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from deploy.grafana.spec import Dashboard, Kind, Panel, Query, Row

PanelBuilder = timeseries.Panel | heatmap.Panel | stat.Panel

TAG = "headwaiter"
_DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH = 24
_HEIGHT = 8
_STAT_HEIGHT = 4
# The models that calls were made to, and those that are loaded; calls to no known model go by `_other`.
_MODELS = (
    'label_values({__name__=~"headwaiter_model_info|headwaiter_requests_total",'
    'job=~"$job",instance=~"$instance"}, model)'
)


def to_json(spec: Dashboard) -> str:
    """The dashboard as Grafana reads it; the same for the same specification, byte by byte."""
    builder = (
        dashboard.Dashboard(spec.title)
        .uid(f"headwaiter-{spec.name}")
        .description(spec.purpose)
        .tags([TAG])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .link(
            dashboard.DashboardLink("Headwaiter")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(as_dropdown=False)
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", "Job", "label_values(headwaiter_build_info, job)"))
        .with_variable(_variable("instance", "Instance", 'label_values(headwaiter_build_info{job=~"$job"}, instance)'))
        .with_variable(_variable("model", "Model", _MODELS))
    )
    numbers = count(1)
    for row in spec.rows:
        builder = builder.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel, width in zip(row.panels, _widths(row), strict=True):
            builder = builder.with_panel(_panel(panel).id(next(numbers)).span(width))
    return f"{JSONEncoder(sort_keys=True, indent=2).encode(builder.build())}\n"


def _widths(row: Row) -> Iterator[int]:
    """Lines of at most three panels, or of as many figures as there are; the lines of a row differ by one at most."""
    total = len(row.panels)
    lines = 1 if row.panels[0].kind is Kind.STAT else -(-total // 3)
    for line in range(lines):
        panels = total // lines + (line < total % lines)
        # What does not divide goes to the last of a line.
        for number in range(panels):
            yield _WIDTH // panels + (_WIDTH % panels if number == panels - 1 else 0)


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    everything = models.VariableOption(text=["All"], value=["$__all"], selected=True)
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_DATASOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(everything)
    )


def _panel(spec: Panel) -> PanelBuilder:
    builder = {Kind.HEATMAP: _heatmap, Kind.STAT: _stat}.get(spec.kind, _lines)(spec)
    builder = (
        builder.title(spec.title)
        .description(spec.description)
        .datasource(_DATASOURCE)
        .unit(spec.unit)
        .min(0)
        .no_value(spec.when_empty)
        .height(_STAT_HEIGHT if spec.kind is Kind.STAT else _HEIGHT)
    )
    if spec.top is not None:
        builder = builder.max(spec.top)
    for name, query in zip(ascii_uppercase, spec.queries, strict=False):
        builder = builder.with_target(_target(name, query, spec.kind))
    return builder


def _target(name: str, query: Query, kind: Kind) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(name).expr(query.expr).legend_format(query.legend).datasource(_DATASOURCE)
    if kind is Kind.STAT:
        return target.instant()
    if kind is Kind.HEATMAP:
        target = target.format(prometheus_models.PromQueryFormat.HEATMAP)
    # The dots of single calls, which lead to their traces.
    return target.range().exemplar(exemplar="headwaiter_request_duration_seconds_bucket" in query.expr)


def _lines(spec: Panel) -> PanelBuilder:
    stacked = spec.kind is Kind.STACK
    builder = (
        timeseries.Panel()
        .fill_opacity(25 if stacked else 5)
        .line_width(1.5)
        .show_points(common_models.VisibilityMode.NEVER)
        .stacking(
            common.StackingConfig().mode(
                common_models.StackingMode.NORMAL if stacked else common_models.StackingMode.NONE
            )
        )
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.TABLE)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if spec.bound is not None:
        builder = builder.thresholds(_thresholds(spec.bound)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    for name, query in zip(ascii_uppercase, spec.queries, strict=False):
        if query.is_bound:
            builder = builder.override_by_query(name, _BOUND)
    return builder


_BOUND = [
    models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": "red"}),
    models.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]}),
    models.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
    models.DynamicConfigValue(id_val="custom.stacking", value={"mode": "none"}),
]


def _heatmap(spec: Panel) -> PanelBuilder:
    return (
        heatmap.Panel()
        .calculate(calculate=False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit(spec.unit))
        .cell_values(heatmap.CellValues().unit("suffix: runs"))
        .show_legend()
        .mode(common_models.TooltipDisplayMode.SINGLE)
    )


def _stat(spec: Panel) -> PanelBuilder:
    return (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .thresholds(_thresholds(spec.bound))
    )


def _thresholds(bound: float | None) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(color="green")]
    if bound is not None:
        steps.append(models.Threshold(color="red", value=bound))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
