// The shape of a dashboard with the panels that we use, in the types that Grafana publishes. The JSON schema
// beside this file is made from it, in a folder of its own:
//
//   npm install --ignore-scripts @grafana/schema@12.2.0 ts-json-schema-generator@2.3.0 typescript@5.6
//   npx ts-json-schema-generator --path grafana-dashboard.ts --type OurDashboard --expose none --minify
//
import { Dashboard, Panel, RowPanel, FieldConfig, FieldConfigSource, DataSourceRef } from '@grafana/schema/dist/types/raw/dashboard/x/dashboard_types.gen';
import { Options as TimeSeriesOptions, FieldConfig as TimeSeriesFieldConfig } from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import { Options as StatOptions } from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import { Options as TextOptions } from '@grafana/schema/dist/types/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
interface Query { refId: string; datasource: DataSourceRef; expr: string; legendFormat: string; editorMode: 'code'; range: true }
type Of<T, O, C> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: T; options: O; targets?: Query[];
  fieldConfig: Omit<FieldConfigSource, 'defaults'> & { defaults: Omit<FieldConfig, 'custom'> & { custom?: C } };
};
export type OurDashboard = Omit<Dashboard, 'panels'> & {
  panels: Array<RowPanel | Of<'timeseries', TimeSeriesOptions, TimeSeriesFieldConfig> | Of<'stat', StatOptions, never> | Of<'text', TextOptions, never>>;
};
