{{/* Parts of pods. All take (dict "root" $ "component" "webhook" "name" "<fullname>-webhook"). */}}

{{/* What every pod of the chart has, the test's included. */}}
{{- define "idtoken-operator.podBase" -}}
# The token of the ServiceAccount is mounted below, in plain sight, into the one container that needs it.
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- if not (kindIs "invalid" .root.Values.hostUsers) }}
hostUsers: {{ .root.Values.hostUsers }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The image and the rights of a container, as the Pod Security Standard `restricted` wants them. */}}
{{- define "idtoken-operator.containerBase" -}}
image: {{ include "idtoken-operator.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- $own := index .root.Values .component }}
resources: {{- toYaml $own.resources | nindent 2 }}
{{- end }}

{{/* The token of the ServiceAccount, as the ServiceAccount admission plugin would mount it, but for the seconds: its 3607 are
     the sign for the API server to make a token of a year (--service-account-extend-token-expiration). */}}
{{- define "idtoken-operator.tokenVolume" -}}
- name: kube-api-access
  projected:
    defaultMode: 292 # 0444
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3600}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
{{- end }}
{{- define "idtoken-operator.tokenMount" -}}
- {name: kube-api-access, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{/* The flags that both programs share. */}}
{{- define "idtoken-operator.commonArgs" -}}
- --health-addr={{ .root.Values.listenAddress }}:8081
- --metrics-addr={{ .root.Values.listenAddress }}:8080
- --log-format={{ .root.Values.logFormat }}
- --log-level={{ .root.Values.logLevel }}
{{- range .root.Values.scope.namespaces }}
- --namespace={{ . }}
{{- end }}
{{- end }}
{{- define "idtoken-operator.extraArgs" -}}
{{- $own := index .root.Values .component -}}
{{- range $own.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "idtoken-operator.env" -}}
{{- $own := index .root.Values .component -}}
- name: POD_NAME
  valueFrom:
    fieldRef: {apiVersion: v1, fieldPath: metadata.name}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}
{{- with $own.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "idtoken-operator.commonPorts" -}}
- {name: health, containerPort: 8081, protocol: TCP}
- {name: metrics, containerPort: 8080, protocol: TCP}
{{- end }}

{{/* Three questions: has it started (five minutes for the first caches), is it stuck, can it serve. */}}
{{- define "idtoken-operator.probes" -}}
startupProbe:
  httpGet: {path: /startupz, port: health, scheme: HTTP}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 150
livenessProbe:
  httpGet: {path: /healthz, port: health, scheme: HTTP}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: health, scheme: HTTP}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* Where the pods run, as the values have it. */}}
{{- define "idtoken-operator.scheduling" -}}
{{- $part := . -}}
{{- $own := index .root.Values .component -}}
{{- with $own.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $selector := dict "matchLabels" (include "idtoken-operator.selectorLabels" $part | fromYaml) }}
{{- $constraints := list }}
{{- range $own.topologySpreadConstraints }}
{{- $constraint := deepCopy . }}
{{- if not (hasKey . "labelSelector") }}{{ $_ := set $constraint "labelSelector" $selector }}{{ end }}
{{- if not (hasKey . "matchLabelKeys") }}{{ $_ := set $constraint "matchLabelKeys" (list "pod-template-hash") }}{{ end }}
{{- $constraints = append $constraints $constraint }}
{{- end }}
{{- with $constraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.dnsConfig }}
dnsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.hostAliases }}
hostAliases: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* So that a drain of nodes never takes all replicas; a replica that is not ready anyway never holds a drain up. */}}
{{- define "idtoken-operator.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "idtoken-operator.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "idtoken-operator.selectorLabels" . | nindent 6 }}
{{- end }}

{{/* The ServiceAccount of a component. */}}
{{- define "idtoken-operator.serviceAccount" -}}
{{- $own := index .root.Values .component -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "idtoken-operator.serviceAccountName" . | quote }}
  namespace: {{ include "idtoken-operator.namespace" .root | quote }}
  labels: {{- include "idtoken-operator.labels" . | nindent 4 }}
  {{- with $own.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
