{{- define "llmwarden.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Labels that select a component's pods. Never change them: a Deployment's selector is immutable. (dict "root" $ "component" NAME) */}}
{{- define "llmwarden.selector" -}}
app.kubernetes.io/name: llmwarden
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "llmwarden.labels" -}}
{{ include "llmwarden.selector" . }}
app.kubernetes.io/part-of: llmwarden
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- if ne .root.Release.Service "" }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llmwarden.podMetadata" -}}
labels:
  {{- include "llmwarden.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: llmwarden
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # A changed setting must restart the pods that read it.
  llmwarden.io/settings: {{ include "llmwarden.settings" .root | sha256sum | trunc 16 }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Fields that the pods of all three components share. (dict "root" $ "component" NAME) */}}
{{- define "llmwarden.podSpec" -}}
{{- $own := index .root.Values .component -}}
serviceAccountName: llmwarden-{{ .component }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $own.affinity }}
affinity:
  {{- toYaml $own.affinity | nindent 2 }}
{{- else if or (eq .component "webhook") (gt (int ($own.replicas | default 1)) 1) }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "llmwarden.selector" . | nindent 14 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with .root.Values.podSecurity.runAsUser }}
  runAsUser: {{ int64 . }}
  {{- end }}
  {{- with .root.Values.podSecurity.runAsGroup }}
  runAsGroup: {{ int64 . }}
  fsGroup: {{ int64 . }}
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The start of every container: the same image, its role, settings, probes and confinement. */}}
{{- define "llmwarden.container" -}}
{{- $own := index .root.Values .component -}}
name: {{ .component }}
image: {{ include "llmwarden.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [{{ .component | quote }}]
envFrom:
  - configMapRef: {name: llmwarden-settings}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
startupProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  {{- toYaml $own.resources | nindent 2 }}
{{- end }}

{{- define "llmwarden.env" -}}
- name: LLMWARDEN_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: LLMWARDEN_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end }}

{{/* Every field of llmwarden.settings.Settings except the namespace, which each pod reads from the API. */}}
{{- define "llmwarden.settings" -}}
{{- $v := .Values -}}
LLMWARDEN_IMAGE: {{ include "llmwarden.image" . | quote }}
LLMWARDEN_IMAGE_PULL_POLICY: {{ $v.image.pullPolicy | quote }}
LLMWARDEN_CLUSTER_DOMAIN: {{ $v.clusterDomain | quote }}
LLMWARDEN_PROMETHEUS_URL: {{ $v.prometheus.url | quote }}
LLMWARDEN_PROMETHEUS_TIMEOUT: {{ $v.prometheus.timeoutSeconds | quote }}
{{- $collector := printf "http://llmwarden-collector.%s.svc:4318" .Release.Namespace }}
LLMWARDEN_OTLP_ENDPOINT: {{ $v.tracing.otlpEndpoint | default (ternary $collector "" $v.collector.enabled) | quote }}
{{- $more := dict "podSecurity" $v.podSecurity "imagePullSecrets" $v.imagePullSecrets }}
LLMWARDEN_COLLECTOR: {{ merge $more $v.collector | toJson | quote }}
LLMWARDEN_ALLOWED_HOSTS: {{ $v.backends.allowedHosts | toJson | quote }}
LLMWARDEN_RUNBOOK_BASE_URL: {{ $v.prometheus.runbookBaseUrl | quote }}
LLMWARDEN_RULE_LABELS: {{ $v.prometheus.ruleLabels | toJson | quote }}
LLMWARDEN_ALERTMANAGER_CONFIG_LABELS: {{ $v.prometheus.alertmanagerConfigLabels | toJson | quote }}
LLMWARDEN_MONITOR_LABELS: {{ $v.prometheus.monitorLabels | toJson | quote }}
LLMWARDEN_GRAFANA_URL: {{ $v.grafana.url | quote }}
LLMWARDEN_GRAFANA_DELIVERY: {{ $v.grafana.delivery | quote }}
LLMWARDEN_GRAFANA_FOLDER: {{ $v.grafana.folder | quote }}
LLMWARDEN_GRAFANA_INSTANCE_LABELS: {{ $v.grafana.instanceLabels | toJson | quote }}
LLMWARDEN_DASHBOARD_LABELS: {{ $v.grafana.dashboardLabels | toJson | quote }}
LLMWARDEN_SHORT_METRIC_NAMES: {{ $v.prometheus.shortMetricNames | quote }}
LLMWARDEN_SCRAPE_INTERVAL: {{ $v.prometheus.scrapeInterval | quote }}
LLMWARDEN_SAMPLE_LIMIT_PROXY: {{ $v.prometheus.sampleLimits.proxy | int64 | quote }}
LLMWARDEN_SAMPLE_LIMIT_ENGINE: {{ $v.prometheus.sampleLimits.engine | int64 | quote }}
LLMWARDEN_SAMPLE_LIMIT_PLATFORM: {{ $v.prometheus.sampleLimits.platform | int64 | quote }}
LLMWARDEN_RESYNC_SECONDS: {{ $v.operator.resyncSeconds | quote }}
LLMWARDEN_STATUS_SECONDS: {{ $v.operator.statusSeconds | quote }}
LLMWARDEN_STATUS_WRITES_PER_SECOND: {{ $v.operator.statusWritesPerSecond | quote }}
LLMWARDEN_WORKERS: {{ $v.operator.workers | quote }}
LLMWARDEN_REPORT_SECONDS: {{ $v.proxy.reportSeconds | quote }}
LLMWARDEN_PROXY_CPU_REQUEST: {{ $v.proxy.cpuRequest | quote }}
LLMWARDEN_PROXY_CPU_LIMIT: {{ $v.proxy.cpuLimit | quote }}
LLMWARDEN_PROXY_CPU_GUARANTEED: {{ $v.proxy.cpuGuaranteed | quote }}
LLMWARDEN_PROXY_MEMORY_REQUEST: {{ $v.proxy.memoryRequest | quote }}
LLMWARDEN_PROXY_MEMORY_LIMIT: {{ $v.proxy.memoryLimit | quote }}
LLMWARDEN_UNBOUNDED_INPUT_TOKENS: {{ $v.proxy.unboundedInputTokens | int64 | quote }}
LLMWARDEN_UNBOUNDED_OUTPUT_TOKENS: {{ $v.proxy.unboundedOutputTokens | int64 | quote }}
LLMWARDEN_INJECTION_STUCK_SECONDS: {{ $v.injection.stuckSeconds | quote }}
LLMWARDEN_INJECTION_RETRY_SECONDS: {{ $v.injection.retrySeconds | quote }}
LLMWARDEN_WEBHOOK_TIMEOUT: {{ $v.injection.webhookTimeoutSeconds | quote }}
LLMWARDEN_WEBHOOK_CLIENT_CA: {{ $v.webhook.clientCA | quote }}
LLMWARDEN_WEBHOOK_CLIENT_NAMES: {{ $v.webhook.clientNames | toJson | quote }}
LLMWARDEN_GPU_ENABLED: {{ $v.gpu.enabled | quote }}
LLMWARDEN_DCGM_IMAGE: {{ $v.gpu.dcgmImage | quote }}
LLMWARDEN_GPU_NODE_LABEL: {{ $v.gpu.nodeLabel | quote }}
LLMWARDEN_DATABASE_PATH: "/data/ledger.sqlite3"
LLMWARDEN_POD_DETAIL_DAYS: {{ $v.ledger.podDetailDays | quote }}
LLMWARDEN_QUOTA_JOURNAL_ROWS: {{ $v.ledger.quotas.journalRows | int64 | quote }}
LLMWARDEN_QUOTA_FOLDED_ROWS: {{ $v.ledger.quotas.foldedRows | int64 | quote }}
LLMWARDEN_QUOTA_NAMESPACE_ROWS: {{ $v.ledger.quotas.namespaceRows | int64 | quote }}
LLMWARDEN_QUOTA_UNPRICED_ROWS: {{ $v.ledger.quotas.unpricedRows | int64 | quote }}
LLMWARDEN_AUDIT_DAYS: {{ $v.ledger.auditDays | quote }}
LLMWARDEN_PLAUSIBLE_TOKENS_PER_SECOND: {{ $v.ledger.plausible.tokensPerSecond | int64 | quote }}
LLMWARDEN_PLAUSIBLE_REQUESTS_PER_SECOND: {{ $v.ledger.plausible.requestsPerSecond | int64 | quote }}
LLMWARDEN_LEASE_POD_PERCENT: {{ $v.ledger.leases.podPercent | quote }}
LLMWARDEN_LEASE_SERVICE_PERCENT: {{ $v.ledger.leases.servicePercent | quote }}
LLMWARDEN_LEASE_NAMESPACE_PERCENT: {{ $v.ledger.leases.namespacePercent | quote }}
LLMWARDEN_LEASE_FACTOR: {{ $v.ledger.leases.factor | quote }}
LLMWARDEN_LEASE_WINDOW_SECONDS: {{ $v.ledger.leases.windowSeconds | int64 | quote }}
LLMWARDEN_LEASE_BELIEVE_UNTIL: {{ $v.ledger.leases.believeUntil | quote }}
LLMWARDEN_LOG_LEVEL: {{ $v.logLevel | quote }}
{{- end }}
