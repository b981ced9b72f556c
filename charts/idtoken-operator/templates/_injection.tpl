{{/* How pods get their volume: "webhook" or "policy"; nothing where they don't. */}}
{{- define "idtoken-operator.injector" -}}
{{- if eq (default "webhook" (.Values.injection).mode) "policy" -}}
policy
{{- else if .Values.webhook.enabled -}}
webhook
{{- end -}}
{{- end }}

{{/* Whether a component runs: "true" or nothing. Takes (dict "root" $ "component" "webhook"). */}}
{{- define "idtoken-operator.runs" -}}
{{- if eq .component "webhook" -}}
{{- if eq (include "idtoken-operator.injector" .root) "webhook" }}true{{ end -}}
{{- else if (index .root.Values .component).enabled -}}
true
{{- end -}}
{{- end }}
{{/* Whether the controller looks for pods that asked and have nothing. */}}
{{- define "idtoken-operator.reportsUninjected" -}}
{{- if and (.Values.injection).reportUninjected (include "idtoken-operator.injector" .) }}true{{ end -}}
{{- end }}
{{- define "idtoken-operator.runsWebhook" -}}
{{- include "idtoken-operator.runs" (dict "root" . "component" "webhook") -}}
{{- end }}

{{/* Which requests are about pods that injection is for, but for the matchConditions: the same for the webhook and for every policy. */}}
{{- define "idtoken-operator.podRules" -}}
- apiGroups: [""]
  apiVersions: [v1]
  resources: [pods]
  operations: [CREATE]
  scope: Namespaced
{{- end }}
{{- define "idtoken-operator.podNamespaces" -}}
matchExpressions:
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: {{- include "idtoken-operator.excludedNamespaces" . | nindent 2 }}
{{- with .Values.scope.namespaces }}
- key: kubernetes.io/metadata.name
  operator: In
  values: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "idtoken-operator.podConstraints" -}}
matchPolicy: Equivalent
namespaceSelector:
  {{- include "idtoken-operator.podNamespaces" . | nindent 2 }}
objectSelector: {}
resourceRules:
{{ include "idtoken-operator.podRules" . }}
{{- end }}

{{/* The first matchConditions of the webhook and of every policy: pods that ask for nothing are nobody's business. */}}
{{- define "idtoken-operator.podConditions" -}}
- name: asks-for-injection
  expression: has(object.metadata.annotations) && ['idtoken.dev/inject', 'idtoken.dev/guard'].exists(k, k in object.metadata.annotations && object.metadata.annotations[k] != '')
- name: not-managed-by-gke
  expression: "!request.namespace.startsWith('gke-managed-')"
{{- end }}
{{/* What the webhook sees for itself. */}}
{{- define "idtoken-operator.notMirror" -}}
- name: not-a-mirror-pod
  expression: "!('kubernetes.io/config.mirror' in object.metadata.annotations)"
{{- end }}

{{/* CEL: whether the source s of a projected volume, of whatever type, writes to a path. */}}
{{- define "idtoken-operator.celTaken" -}}
s.exists(type, s[type].?path.orValue('') == {{ . }} || s[type].?items.orValue([]).exists(item, item.path == {{ . }}))
{{- end }}

{{/* CEL: a value as a message shows it, cut where it is long. Takes (dict "of" expression "most" 60). */}}
{{- define "idtoken-operator.celShown" -}}
strings.quote({{ .of }}.size() > {{ .most }} ? {{ .of }}.substring(0, {{ sub .most 1 }}) + '…' : {{ .of }})
{{- end }}
{{/* CEL: the beginning of a refusal. Takes (dict "key" "inject" "of" expression of the value). */}}
{{- define "idtoken-operator.celRefusal" -}}
'annotation idtoken.dev/{{ .key }}: ' + {{ include "idtoken-operator.celShown" (dict "of" .of "most" 60) }}
{{- end }}

{{/* CEL variables: what a pod asks for, and what is wrong with that, in the webhook's own words. The same in both policies, so that the one
that injects leaves alone what the other one refuses. Needs Kubernetes 1.36. */}}
{{- define "idtoken-operator.requestVariables" -}}
{{- $inject := "variables.asked['inject']" -}}
# Our annotations without prefix and blanks; a blank one is none.
- name: asked
  expression: >-
    object.metadata.annotations.transformMapEntry(k, v, k.startsWith('idtoken.dev/') && v.trim() != '', {k.substring(12): v.trim()})
- name: names
  expression: >-
    'inject' in variables.asked ? variables.asked['inject'].split(',').map(n, n.trim()) : []
# The variable of each name.
- name: files
  expression: >-
    variables.names.map(n, 'IDTOKEN_FILE_' + n.upperAscii().replace('-', '_').replace('.', '_'))
- name: wanted
  expression: >-
    'containers' in variables.asked ? variables.asked['containers'].split(',').map(n, n.trim()) : []
- name: path
  expression: >-
    [variables.asked[?'mount-path'].orValue('/var/run/secrets/idtoken.dev')].map(p, p.endsWith('/') ? p.substring(0, p.size() - 1) : p)[0]
- name: mode
  expression: variables.asked[?'file-mode'].orValue('0444')
- name: optional
  expression: variables.asked[?'optional'].orValue('false')
# A pod without containers is refused later on.
- name: main
  expression: "object.spec.?containers.orValue(null) == null ? [] : object.spec.containers"
- name: containers
  expression: object.spec.?initContainers.orValue([]) + variables.main
- name: unsupported
  expression: >-
    ['agent', 'proxy', 'guard'].filter(k, k in variables.asked && !(k == 'agent' && variables.asked[k] == 'false'))
    .map(k, 'annotation idtoken.dev/' + k + ': ' + {{ include "idtoken-operator.celShown" (dict "of" "variables.asked[k]" "most" 60) }}
    + ' asks for a part that this version of idtoken-operator does not have yet; remove the annotation')
# The first of them is the one that is told.
- name: problems
  expression: >-
    variables.unsupported + (!('inject' in variables.asked) ? [] :
    {{- include "idtoken-operator.celNameProblems" (dict "key" "inject" "names" "variables.names") | nindent 4 }}
    + (variables.names.size() > 64 ?
    [{{ include "idtoken-operator.celRefusal" (dict "key" "inject" "of" $inject) }}
    + ' names ' + string(variables.names.size()) + ' bindings; name at most 64 of them in one pod'] : [])
    + variables.names.filter(n, n.size() > 253 || !n.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')).map(n,
    {{ include "idtoken-operator.celRefusal" (dict "key" "inject" "of" $inject) }}
    + ' contains ' + {{ include "idtoken-operator.celShown" (dict "of" "n" "most" 60) }}
    + ', which can\'t be the name of an IdTokenBinding; write names of bindings, separated by commas (lower-case letters, digits, \'-\' and \'.\')')
    + variables.files.transformList(i, f, f in variables.files.slice(0, i),
    {{ include "idtoken-operator.celRefusal" (dict "key" "inject" "of" $inject) }}
    + ' contains two names that both give the variable ' + (f.size() > 60 ? f.substring(0, 59) + '…' : f)
    + '; rename one of the bindings, so that they differ in more than \'-\' and \'.\'')
    + {{ include "idtoken-operator.celNameProblems" (dict "key" "containers" "names" "variables.wanted") | nindent 4 | trim }}
    + (variables.path.startsWith('/') && variables.path.substring(1).split('/').all(s, s != '' && s != '.')
    && !variables.path.contains('..') && !variables.path.contains(':') && !variables.path.matches('\\p{Cc}') ? [] :
    [{{ include "idtoken-operator.celRefusal" (dict "key" "mount-path" "of" "variables.asked['mount-path']") }}
    + ' can\'t be the directory of the tokens; write an absolute path other than \'/\', without \'..\' and \':\', such as /var/run/secrets/idtoken.dev'])
    + (variables.mode.matches('^0?[0-7]{3}$') ? [] :
    [{{ include "idtoken-operator.celRefusal" (dict "key" "file-mode" "of" "variables.mode") }}
    + ' is not a file mode; write three octal digits, such as 0444 or 0400'])
    + (variables.optional in ['true', 'false'] ? [] :
    [{{ include "idtoken-operator.celRefusal" (dict "key" "optional" "of" "variables.optional") }}
    + ' is neither true nor false; write "true" or "false"'])
    + (object.spec.?volumes.orValue([]).exists(v, v.name == 'idtoken' && !has(v.projected)) ?
    [{{ include "idtoken-operator.celRefusal" (dict "key" "inject" "of" "variables.names.join(',')") }}
    + ' needs a volume named "idtoken", but the pod has a volume of another type with that name; rename that volume in the pod'] : [])
    + variables.wanted.filter(n, !variables.containers.exists(c, c.name == n)).map(n,
    {{ include "idtoken-operator.celRefusal" (dict "key" "containers" "of" "variables.wanted.join(',')") }}
    + ' contains ' + {{ include "idtoken-operator.celShown" (dict "of" "n" "most" 40) }}
    + ', which is no container of this pod; choose from: '
    + [variables.containers.map(c, c.name).join(', ')].map(all, all.size() > 300 ? all.substring(0, 299) + '…' : all)[0]))
{{- end }}
{{- define "idtoken-operator.celNameProblems" -}}
{{- $value := printf "variables.asked['%s']" .key -}}
({{ .names }}.exists(n, n == '') ?
[{{ include "idtoken-operator.celRefusal" (dict "key" .key "of" $value) }}
+ ' contains an empty name; write names separated by single commas'] : [])
+ {{ .names }}.transformList(i, n, n in {{ .names }}.slice(0, i),
{{ include "idtoken-operator.celRefusal" (dict "key" .key "of" $value) }}
+ ' contains ' + {{ include "idtoken-operator.celShown" (dict "of" "n" "most" 60) }} + ' more than once; write each name once')
{{- end }}
