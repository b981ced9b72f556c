{{/* Prefix of the names of all objects: short enough for the names that may have 63 characters, those of Services, of pods by their
Deployments, and all that becomes a label's value. The longest suffix of these is -controller; others may be longer. */}}
{{- define "idtoken-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Namespace of all objects of the release. */}}
{{- define "idtoken-operator.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end }}

{{/* What a selector matches: never changes within a release. Takes (dict "root" $ "component" "webhook"). */}}
{{- define "idtoken-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object. Takes (dict "root" $ "component" "webhook"); "labels" where there are more than the common ones. */}}
{{- define "idtoken-operator.labels" -}}
{{- $own := include "idtoken-operator.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/part-of" .root.Chart.Name -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63) -}}
{{- merge (dict) $own (default (dict) .labels) .root.Values.commonLabels | toYaml -}}
{{- end }}

{{/* Labels of a pod: without the versions, so that a new chart alone starts no new pods. */}}
{{- define "idtoken-operator.podLabels" -}}
{{- $own := index .root.Values .component -}}
{{- $labels := include "idtoken-operator.selectorLabels" . | fromYaml -}}
{{- merge (dict) $labels $own.podLabels .root.Values.commonLabels | toYaml -}}
{{- end }}

{{/* Name, namespace and labels of an object. Takes (dict "root" $ "component" "webhook" "name" "…"); "namespace" where it is not the release's. */}}
{{- define "idtoken-operator.metadata" -}}
{{- include "idtoken-operator.clusterMetadata" . }}
namespace: {{ default (include "idtoken-operator.namespace" .root) .namespace | quote }}
{{- end }}
{{- define "idtoken-operator.clusterMetadata" -}}
name: {{ .name | quote }}
labels: {{- include "idtoken-operator.labels" . | nindent 2 }}
{{- end }}

{{/* The ServiceAccount of a component. */}}
{{- define "idtoken-operator.serviceAccountName" -}}
{{- $own := index .root.Values .component -}}
{{- default (printf "%s-%s" (include "idtoken-operator.fullname" .root) .component) $own.serviceAccount.name -}}
{{- end }}

{{/* The subjects of a binding of rights to a component. */}}
{{- define "idtoken-operator.subjects" -}}
- kind: ServiceAccount
  name: {{ include "idtoken-operator.serviceAccountName" . | quote }}
  namespace: {{ include "idtoken-operator.namespace" .root | quote }}
{{- end }}

{{- define "idtoken-operator.image" -}}
{{- $name := .Values.image.repository -}}
{{- with .Values.image.registry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{/* The Secret with the serving certificate, written by the webhook, or by cert-manager, or by the user; never by the chart. Each has a
Secret of its own, so that the mode can change: the type of a Secret can't, and Helm would remove the webhook's. */}}
{{- define "idtoken-operator.tlsSecretName" -}}
{{- if eq .Values.webhook.tls.mode "secret" -}}
{{- .Values.webhook.tls.secretName -}}
{{- else if eq .Values.webhook.tls.mode "certManager" -}}
{{- include "idtoken-operator.fullname" . }}-webhook-cert
{{- else -}}
{{- include "idtoken-operator.fullname" . }}-webhook-tls
{{- end -}}
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
{{- concat $system $gke (list (include "idtoken-operator.namespace" .)) .Values.webhook.excludeNamespaces | uniq | toYaml -}}
{{- end }}

{{/* Where `helm test` makes its dry runs; nothing where there is no test: it is off, or there is no namespace that the webhook serves. */}}
{{- define "idtoken-operator.testNamespace" -}}
{{- if and .Values.test.enabled (include "idtoken-operator.injector" .) -}}
{{- $left := include "idtoken-operator.excludedNamespaces" . | fromYamlArray -}}
{{- $served := list -}}
{{- range default (list "default") .Values.scope.namespaces -}}
{{- if not (has . $left) }}{{ $served = append $served . }}{{ end -}}
{{- end -}}
{{- default (first (append $served "")) .Values.test.namespace -}}
{{- end -}}
{{- end }}

{{/* Whether a monitor is rendered: "true" or nothing. Takes (dict "root" $ "value" "podMonitor" "kind" "group/version/Kind" "mode" renderMode). */}}
{{- define "idtoken-operator.rendersMonitor" -}}
{{- if or (eq .mode "alwaysRender") (.root.Capabilities.APIVersions.Has .kind) -}}
true
{{- else if eq .mode "failIfMissing" -}}
{{- fail (printf "monitoring.%s.enabled=true, but the cluster does not know %s: install it first, or set monitoring.%s.renderMode to skipIfMissing, or to alwaysRender where Helm can't ask the cluster" .value .kind .value) -}}
{{- end -}}
{{- end }}
{{- define "idtoken-operator.rendersPodMonitor" -}}
{{- if .Values.monitoring.podMonitor.enabled -}}
{{- include "idtoken-operator.rendersMonitor" (dict "root" . "value" "podMonitor" "kind" "monitoring.coreos.com/v1/PodMonitor" "mode" .Values.monitoring.podMonitor.renderMode) -}}
{{- end -}}
{{- end }}
{{- define "idtoken-operator.rendersPodMonitoring" -}}
{{- if .Values.monitoring.podMonitoring.enabled -}}
{{- include "idtoken-operator.rendersMonitor" (dict "root" . "value" "podMonitoring" "kind" "monitoring.googleapis.com/v1/PodMonitoring" "mode" .Values.monitoring.podMonitoring.renderMode) -}}
{{- end -}}
{{- end }}

{{/* A quantity as a plain number: 0.25 of 250m, 54525952 of 52Mi; 0 where there is none. Takes (dict "of" quantity). */}}
{{- define "idtoken-operator.quantity" -}}
{{- $factors := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
      "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- if kindIs "string" .of -}}
{{- printf "%f" (mulf (regexFind "^[0-9.]+" .of | float64) (get $factors (regexFind "[a-zA-Z]*$" .of))) -}}
{{- else -}}
{{- printf "%f" (float64 .of) -}}
{{- end -}}
{{- end }}
