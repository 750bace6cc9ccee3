# SPDX-License-Identifier: Apache-2.0
"""Traces and metrics, by OpenTelemetry."""
