# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry's providers, put together for one instance. Importing this takes a while."""

from __future__ import annotations

import os
from collections.abc import Callable

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
from opentelemetry.sdk.environment_variables import OTEL_METRICS_EXEMPLAR_FILTER
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry, generate_latest

from appliance import __version__
from appliance.engine.service import Engine
from appliance.settings import Settings
from appliance.telemetry.exporting import metric_exporters, quieten, span_exporters
from appliance.telemetry.gpu_observations import observe_gpus
from appliance.telemetry.gpus import Gpus
from appliance.telemetry.instruments import Instruments, ModelNames, views
from appliance.telemetry.observations import observe_engine, waiting_texts
from appliance.telemetry.tei_metrics import TeiMetrics
from appliance.telemetry.tracing import SCOPE, Tracing

__all__ = ["Providers"]

SHUTDOWN_MILLISECONDS = 3000

SYSTEM_METRICS: dict[str, list[str] | None] = {
    "process.context_switches": ["involuntary", "voluntary"],
    "process.cpu.time": ["user", "system"],
    "process.cpu.utilization": None,
    "process.disk.io": ["read", "write"],
    "process.memory.usage": None,
    "process.memory.virtual": None,
    "process.open_file_descriptor.count": None,
    "process.thread.count": None,
    "system.cpu.time": ["idle", "user", "system", "iowait", "steal"],
    "system.disk.io": ["read", "write"],
    "system.memory.usage": ["used", "free", "cached"],
    "system.memory.utilization": ["used", "free", "cached"],
    "system.network.io": ["transmit", "receive"],
}
"""Those of the library's that cost little to read; its others are deprecated or have a series for
each connection or generation of the garbage collector."""


class Providers:
    """What measures and traces one instance.

    Args:
        settings: The instance's settings.
        engine: Its engine.
        gpus: Finds the GPUs.

    Attributes:
        instruments: What requests are measured by.
        tracing: What spans are made by; ``None`` if nobody is told of them.
    """

    def __init__(self, settings: Settings, engine: Engine, gpus: Callable[[], Gpus]) -> None:
        quieten()
        resource = _resource(settings, engine)
        traces_to = span_exporters(settings.otlp_endpoint)
        self._registry = CollectorRegistry(auto_describe=False)
        self._meters = self._start_meters(settings, resource)
        self._tracers = [] if not traces_to else _start_tracers(resource, traces_to)
        names = ModelNames()
        meter = self._meters.get_meter(SCOPE, __version__)
        self._tei = TeiMetrics(lambda: waiting_texts(engine)) if settings.te_metrics else None
        self.instruments = Instruments(meter, names, self._tei)
        self.tracing = Tracing(*self._tracers) if self._tracers else None
        observe_engine(meter, engine, names)
        found = gpus()
        if found.available:
            observe_gpus(meter, found.read)
        self._system = _observe_system(self._meters)

    def text(self) -> bytes:
        """All metrics as Prometheus reads them. Takes some milliseconds."""
        own = generate_latest(self._registry)
        return own if self._tei is None else own + self._tei.text()

    def shutdown(self) -> None:
        """Send what was not sent yet. May take long where nobody listens."""
        if self._system is not None:
            self._system.uninstrument()
        for tracers in self._tracers:
            tracers.shutdown()
        self._meters.shutdown(timeout_millis=SHUTDOWN_MILLISECONDS)

    def _start_meters(self, settings: Settings, resource: Resource) -> MeterProvider:
        readers: list[MetricReader] = [
            PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        ]
        exporters = metric_exporters(settings.otlp_endpoint)
        readers += [PeriodicExportingMetricReader(exporter) for exporter in exporters]
        chosen = OTEL_METRICS_EXEMPLAR_FILTER in os.environ
        return MeterProvider(
            metric_readers=readers,
            resource=resource,
            # An exemplar names a trace. Looking for one costs at every measurement, so that those
            # who want them have to say so.
            exemplar_filter=None if chosen else AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
            views=[*views(), View(instrument_name="system.cpu.time", attribute_keys={"state"})],
        )


def _start_tracers(resource: Resource, exporters: list[SpanExporter]) -> list[TracerProvider]:
    """Two that share their exporters: as the environment samples, and for all that is wanted."""
    tracers = [
        TracerProvider(resource=resource, shutdown_on_exit=False),
        TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False),
    ]
    for exporter in exporters:
        processor = BatchSpanProcessor(exporter)
        for each in tracers:
            each.add_span_processor(processor)
    return tracers


def _observe_system(meters: MeterProvider) -> SystemMetricsInstrumentor | None:
    instrumentor = SystemMetricsInstrumentor(config=SYSTEM_METRICS)
    if instrumentor.is_instrumented_by_opentelemetry:  # the library has one for a process
        return None
    instrumentor.instrument(meter_provider=meters)
    return instrumentor


def _resource(settings: Settings, engine: Engine) -> Resource:
    """Who this is. What was set here comes before ``OTEL_*``, and those before what was not."""
    found: dict[str, AttributeValue] = {
        "service.name": settings.name,
        "service.version": __version__,
        "service.instance.id": engine.session_id,
    }
    set_here: dict[str, AttributeValue] = {}
    if "name" in settings.model_fields_set:
        set_here["service.name"] = settings.name
    if settings.project is not None:
        set_here["service.namespace"] = settings.project
    by_environment = OTELResourceDetector().detect()
    return Resource.create(found).merge(by_environment).merge(Resource(set_here))
