//go:build tools

// Package traces only keeps Jaeger among the module's requirements.
package traces

import _ "github.com/jaegertracing/jaeger/cmd/all-in-one"
