{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- define "appliance.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "appliance.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "appliance.labels" -}}
{{ include "appliance.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "appliance.secret" -}}
{{ .Values.secrets.existing | default (include "appliance.name" .) }}
{{- end }}

{{- define "appliance.claim" -}}
{{ .Values.modelCache.existingClaim | default (printf "%s-models" (include "appliance.name" .)) }}
{{- end }}

{{- /* The server's settings as JSON. queue and route stand in one place, and are written here. */ -}}
{{- define "appliance.config" -}}
{{- $written := dict "name" (.Values.config.name | default .Release.Name) }}
{{- range $name := list "queue" "route" }}
{{- with index $.Values $name }}{{ $_ := set $written $name . }}{{ end }}
{{- end }}
{{- merge $written .Values.config | toPrettyJson }}
{{- end }}

{{- /* The most replicas there can be. */ -}}
{{- define "appliance.most" -}}
{{ .Values.autoscaling.enabled | ternary .Values.autoscaling.maxReplicas .Values.replicas }}
{{- end }}

{{- /* After SIGTERM the server drains, then takes 15 seconds at most to answer what was not done. */ -}}
{{- define "appliance.grace" -}}
{{ add .Values.preStopSeconds (ceil (.Values.config.drain_timeout_seconds | default 30)) 20 }}
{{- end }}

{{- define "appliance.check" -}}
{{- $several := gt (include "appliance.most" . | int) 1 }}
{{- if and $several (not .Values.secrets.existing) (not .Values.secrets.databaseUrl) }}
{{- fail "several replicas share their tokens by PostgreSQL: set secrets.databaseUrl, or secrets.existing to a Secret with the key database-url" }}
{{- end }}
{{- if and $several .Values.modelCache.enabled (not .Values.modelCache.existingClaim) (ne .Values.modelCache.accessMode "ReadWriteMany") }}
{{- fail "several replicas cannot share a volume of modelCache.accessMode ReadWriteOnce: set it to ReadWriteMany, or turn modelCache.enabled off" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- fail "autoscaling.maxReplicas is less than autoscaling.minReplicas" }}
{{- end }}
{{- if and .Values.route (not .Values.gateway.parents) }}
{{- fail "route is set, but gateway.parents, the Gateways that publish it, are not" }}
{{- end }}
{{- if and .Values.nodePoolLabel (not .Values.queue) }}
{{- fail "nodePoolLabel is set, but queue, the name of the pool, is not" }}
{{- end }}
{{- if and (hasKey .Values.config "queue") (ne (toString .Values.config.queue) .Values.queue) }}
{{- fail "config.queue is not what queue is: set queue alone, which places the pods and is written to the settings" }}
{{- end }}
{{- if and .Values.route (hasKey .Values.config "route") (ne (toString .Values.config.route) .Values.route) }}
{{- fail "config.route is not what route is: set route alone, which the Gateway goes by and is written to the settings" }}
{{- end }}
{{- range $name := list "host" "port" "data_dir" "hub_cache" "swap_dir" }}
{{- if hasKey $.Values.config $name }}
{{- fail (printf "config.%s is the image's own, and cannot be set" $name) }}
{{- end }}
{{- end }}
{{- range $name := list "api_keys" "database_url" "hf_token" }}
{{- if hasKey $.Values.config $name }}
{{- fail (printf "config.%s is a secret: set it under secrets" $name) }}
{{- end }}
{{- end }}
{{- end }}
