package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// What the mock upstream says: OpenAI's shapes and, near enough, the headers that its API sends.
const headers = "Date: Sat, 21 Nov 2026 10:00:00 GMT\r\n" +
	"openai-organization: llmwarden\r\n" +
	"openai-processing-ms: 412\r\n" +
	"openai-version: 2020-10-01\r\n" +
	"x-ratelimit-limit-requests: 10000\r\n" +
	"x-ratelimit-limit-tokens: 2000000\r\n" +
	"x-ratelimit-remaining-requests: 9999\r\n" +
	"x-ratelimit-remaining-tokens: 1999712\r\n" +
	"x-ratelimit-reset-requests: 6ms\r\n" +
	"x-ratelimit-reset-tokens: 8ms\r\n" +
	"x-request-id: req_7d3b0a5f8f2c4b0e9d1c6a5b4e3f2a10\r\n" +
	"strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n" +
	"X-Content-Type-Options: nosniff\r\n" +
	"Server: mock\r\n"

const usage = `{"prompt_tokens":19,"completion_tokens":64,"total_tokens":83,` +
	`"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},` +
	`"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`

// plan is an answer: its head and, one after the other, what is written with `gap` between them.
type plan struct {
	pieces [][]byte
	gap    time.Duration
}

type answers struct{ plans map[string]*plan }

func newAnswers() *answers { return &answers{plans: map[string]*plan{}} }

// forBody returns the answer that a request's body asks for by its model: "bench-short" or "bench-stream-CHUNKS-MICROSECONDS".
func (a *answers) forBody(body []byte) *plan {
	from := bytes.Index(body, []byte("bench-"))
	if from < 0 {
		return nil
	}
	end := bytes.IndexByte(body[from:], '"')
	if end < 0 {
		return nil
	}
	model := string(body[from : from+end])
	withUsage := bytes.Contains(body, []byte(`"include_usage":true`)) || bytes.Contains(body, []byte(`"include_usage": true`))
	key := model
	if withUsage {
		key += "+"
	}
	known, ok := a.plans[key]
	if !ok {
		known = build(model, withUsage)
		a.plans[key] = known
	}
	return known
}

func build(model string, withUsage bool) *plan {
	parts := strings.Split(model, "-")
	if len(parts) < 4 || parts[1] != "stream" {
		body := `{"id":"chatcmpl-CeBnchAAAAAAAAAAAAAAAAAAAAAAA","object":"chat.completion","created":1763719200,"model":"` + model +
			`","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?","refusal":null,"annotations":[]},` +
			`"logprobs":null,"finish_reason":"stop"}],"usage":` + usage + `,"service_tier":"default","system_fingerprint":"fp_560af6e559"}`
		head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n", len(body), headers)
		return &plan{pieces: [][]byte{[]byte(head + body)}}
	}
	count, _ := strconv.Atoi(parts[2])
	micros, _ := strconv.Atoi(parts[3])
	null := ""
	if withUsage {
		null = `,"usage":null`
	}
	event := func(choices, used string) string {
		data := `data: {"id":"chatcmpl-CeBnchAAAAAAAAAAAAAAAAAAAAAAA","object":"chat.completion.chunk","created":1763719200,"model":"` + model +
			`","service_tier":"default","system_fingerprint":"fp_560af6e559","choices":[` + choices + `]` + used + "}\n\n"
		return fmt.Sprintf("%x\r\n%s\r\n", len(data), data)
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n" + headers + "\r\n"
	out := &plan{gap: time.Duration(micros) * time.Microsecond}
	role := `{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}`
	out.pieces = append(out.pieces, []byte(head+event(role, null)))
	for range count {
		delta := `{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}`
		out.pieces = append(out.pieces, []byte(event(delta, null)))
	}
	last := event(`{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}`, null)
	if withUsage {
		last += event("", `,"usage":`+usage)
	}
	done := "data: [DONE]\n\n"
	last += fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(done), done)
	out.pieces = append(out.pieces, []byte(last))
	return out
}
