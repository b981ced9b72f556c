// Schemas of the kinds that the chart renders for other people's operators. Nothing here is built: `go mod download` fetches the
// sources, and go.sum says what they must be. (Not to be tidied: no package of them is imported.)
module schemas

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.1
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
