// SPDX-License-Identifier: Apache-2.0
// Grafana's types as JSON has them: an enumeration of strings is written as the strings themselves.
import type { AnnotationQuery, Dashboard as GrafanaDashboard } from "@grafana/schema";

export type Plain<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends Array<infer Item>
      ? Plain<Item>[]
      : T extends object
        ? { [Key in keyof T]: Plain<T[Key]> }
        : T;

// The question of an annotation is its data source's, and Prometheus' is a word of PromQL.
type Annotation = Plain<AnnotationQuery> & { expr?: string };

export type Dashboard = Omit<Plain<GrafanaDashboard>, "annotations"> & {
  annotations?: { list?: Annotation[] };
};

export type { Options as heatmap } from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
export type { Options as stat } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
export type {
  Options as state_timeline,
  FieldConfig as state_timeline_field,
} from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
export type { Options as table } from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
export type {
  Options as timeseries,
  FieldConfig as timeseries_field,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
