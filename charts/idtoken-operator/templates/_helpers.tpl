{{/* Prefix of the names of all objects; short enough for the longest suffix (-webhook-tls) within 63 characters. */}}
{{- define "idtoken-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What a selector matches: never changes within a release. Takes (dict "root" $ "component" "webhook"). */}}
{{- define "idtoken-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object. Takes (dict "root" $ "component" "webhook"). */}}
{{- define "idtoken-operator.labels" -}}
{{- $own := include "idtoken-operator.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/part-of" .root.Chart.Name -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63) -}}
{{- merge (dict) $own .root.Values.commonLabels | toYaml -}}
{{- end }}

{{/* Labels of a pod: without the versions, so that a new chart alone starts no new pods. */}}
{{- define "idtoken-operator.podLabels" -}}
{{- $own := include "idtoken-operator.selectorLabels" . | fromYaml -}}
{{- $extra := (index .root.Values .component).podLabels -}}
{{- merge (dict) $own $extra .root.Values.commonLabels | toYaml -}}
{{- end }}

{{- define "idtoken-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The Secret that holds the webhook's own CA and serving certificate: the webhook writes it, never the chart. */}}
{{- define "idtoken-operator.tlsSecretName" -}}
{{ include "idtoken-operator.fullname" . }}-webhook-tls
{{- end }}

{{/* Namespaces that the webhook never sees. A selector knows no globs: gke-managed-* is excluded by a matchCondition too. */}}
{{- define "idtoken-operator.excludedNamespaces" -}}
{{- $system := list "kube-system" "kube-public" "kube-node-lease" -}}
{{- $gke := list
      "gke-gmp-system"
      "gke-managed-checkpointing"
      "gke-managed-cim"
      "gke-managed-dpv2-observability"
      "gke-managed-filestorecsi"
      "gke-managed-networking-dra-driver"
      "gke-managed-parallelstorecsi"
      "gke-managed-system" -}}
{{- concat $system $gke (list .Release.Namespace) .Values.webhook.excludeNamespaces | uniq | toYaml -}}
{{- end }}

{{/* The securityContext of a pod and of a container, as the Pod Security Standard `restricted` wants them. */}}
{{- define "idtoken-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "idtoken-operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Arguments, ports, environment and probes that both programs share. Takes (dict "root" $ "component" "webhook"). */}}
{{- define "idtoken-operator.commonArgs" -}}
- --health-addr=0.0.0.0:8081
- --metrics-addr=0.0.0.0:8080
- --log-format={{ .root.Values.logFormat }}
- --log-level={{ .root.Values.logLevel }}
{{- end }}
{{- define "idtoken-operator.commonPorts" -}}
- {name: health, containerPort: 8081, protocol: TCP}
- {name: metrics, containerPort: 8080, protocol: TCP}
{{- end }}
{{- define "idtoken-operator.env" -}}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}
{{- with (index .root.Values .component).extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- define "idtoken-operator.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: health, scheme: HTTP}
  periodSeconds: 10
  timeoutSeconds: 2
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: health, scheme: HTTP}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* The flags for Google's endpoints, where values name others than the public ones. */}}
{{- define "idtoken-operator.endpointArgs" -}}
{{- with .Values.endpoints }}
{{- with .metadataUrl }}
- {{ printf "--metadata-url=%s" . | quote }}
{{- end }}
{{- with .iamCredentialsUrl }}
- {{ printf "--iam-credentials-url=%s" . | quote }}
{{- end }}
{{- with .oauthTokenUrl }}
- {{ printf "--oauth-token-url=%s" . | quote }}
{{- end }}
{{- range $issuer, $url := .jwksUrls }}
- {{ printf "--jwks-url=%s=%s" $issuer $url | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where the pods run and what is added to them. Takes (dict "root" $ "component" "webhook"). */}}
{{- define "idtoken-operator.podExtras" -}}
{{- with index .root.Values .component -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .extraVolumes }}
volumes: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end }}
