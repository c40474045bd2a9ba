package main

import (
	"bytes"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Order asks for one measurement. Times are seconds; a rate of 0 keeps every connection busy.
type Order struct {
	Target      string  `json:"target"`
	Model       string  `json:"model"`
	Stream      bool    `json:"stream"`
	Prompt      int     `json:"prompt"` // bytes
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate"`
	Spread      float64 `json:"spread"` // the connections' first requests are spread over so many seconds
	Warmup      float64 `json:"warmup"`
	Seconds     float64 `json:"seconds"`
	Requests    int     `json:"requests"` // end after so many, if not 0
	Exact       bool    `json:"exact"`    // the body must be as long as the mock's
	Pids        []int   `json:"pids"`     // whose CPU clocks are read at the window's ends
	Seed        int64   `json:"seed"`
}

// Outcome is what one measurement gave, within its window. Latencies are in milliseconds, CPU in microseconds.
type Outcome struct {
	Requests int                `json:"requests"`
	Chunks   int                `json:"chunks"`
	Errors   int                `json:"errors"`
	First    string             `json:"first_error,omitempty"`
	Seconds  float64            `json:"seconds"`
	CPU      float64            `json:"cpu_us"`
	Own      float64            `json:"own_cpu_us"`
	Latency  map[string]float64 `json:"latency_ms"`
	TTFT     map[string]float64 `json:"ttft_ms"`
}

type run struct {
	order     Order
	loop      *loop
	request   []byte
	expected  int
	random    *rand.Rand
	idle      []*client
	arrivals  []time.Duration // scheduled, and waiting for a connection
	clients   []*client
	from, to  time.Duration
	measuring bool
	stopping  bool
	busy      int
	started   int
	out       Outcome
	latencies []float64
	ttfts     []float64
}

type client struct {
	socket
	run      *run
	since    time.Duration // when the request was due
	busy     bool
	recorded bool // it began within the window
	head     []byte
	inBody   bool
	chunked  bool
	length   int // of the body, still to come
	size     int // of the body, so far
	events   int
	tail     [5]byte
	ttft     bool
}

const processClock = 2 // CLOCK_PROCESS_CPUTIME_ID

var (
	dataField = []byte("data: ")
	lastChunk = []byte("0\r\n\r\n")
)

func measure(l *loop, known *answers, order Order) Outcome {
	r := &run{order: order, loop: l, request: compose(order), random: rand.New(rand.NewSource(order.Seed))}
	answer := known.forBody([]byte(`"` + order.Model + `"`))
	for _, piece := range answer.pieces {
		r.expected += len(piece)
	}
	if !order.Stream {
		r.expected -= bytes.Index(answer.pieces[0], []byte("\r\n\r\n")) + 4
	}
	r.from = now() + seconds(order.Warmup)
	r.to = r.from + seconds(order.Seconds)
	for range order.Connections {
		c := &client{run: r}
		r.clients = append(r.clients, c)
		if !c.connect() {
			return Outcome{Errors: 1, First: "cannot connect to " + order.Target}
		}
	}
	var cpu, own float64
	l.at(r.from, func() { r.measuring = true; cpu = clocks(order.Pids); own = clock(processClock); r.from = now() })
	l.at(r.to, func() {
		r.to = now()
		r.out.CPU, r.out.Own = clocks(order.Pids)-cpu, clock(processClock)-own
		r.measuring, r.stopping = false, true
	})
	if order.Rate > 0 {
		r.idle = append(r.idle, r.clients...)
		r.arrive(now() + r.pause())
	} else {
		for index, c := range r.clients {
			l.at(now()+seconds(order.Spread*float64(index)/float64(order.Connections)), func() { c.send(now()) })
		}
	}
	deadline := r.to + 10*time.Second
	l.runUntil(func() bool { return r.stopping && (r.busy == 0 || now() > deadline) })
	for _, c := range r.clients {
		l.remove(c.fd)
	}
	if r.busy > 0 {
		r.fail(nil, fmt.Sprintf("%d requests were not answered", r.busy))
	}
	r.out.Seconds = (r.to - r.from).Seconds()
	r.out.Latency, r.out.TTFT = quantiles(r.latencies), quantiles(r.ttfts)
	return r.out
}

// compose writes a request as OpenAI's Python SDK does.
func compose(order Order) []byte {
	content := strings.Repeat("All happy families are alike; each unhappy family is unhappy in its own way. ", order.Prompt/77+1)[:max(order.Prompt, 1)]
	stream := ""
	if order.Stream {
		stream = `,"stream":true`
	}
	body := `{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"` + content +
		`"}],"model":"` + order.Model + `","max_completion_tokens":256,"temperature":0.7` + stream + `}`
	head := fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"+
		"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 2.54.0\r\nX-Stainless-Lang: python\r\n"+
		"X-Stainless-Package-Version: 2.54.0\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"+
		"X-Stainless-Runtime-Version: 3.11.7\r\nAuthorization: Bearer sk-bench-not-a-key\r\nX-Stainless-Async: false\r\n"+
		"x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nContent-Length: %d\r\n\r\n", order.Target, len(body))
	return []byte(head + body)
}

func (r *run) pause() time.Duration { return seconds(r.random.ExpFloat64() / r.order.Rate) }

// arrive begins a request when it is due, whether or not earlier ones were answered.
func (r *run) arrive(when time.Duration) {
	r.loop.at(when, func() {
		if r.stopping {
			return
		}
		if last := len(r.idle) - 1; last >= 0 {
			c := r.idle[last]
			r.idle = r.idle[:last]
			c.send(when)
		} else {
			r.arrivals = append(r.arrivals, when)
		}
		r.arrive(when + r.pause())
	})
}

func (r *run) fail(c *client, what string) {
	r.out.Errors++
	if r.out.First == "" {
		r.out.First = what
	}
	if c == nil {
		return
	}
	r.loop.remove(c.fd)
	if c.busy {
		c.busy = false
		r.busy--
	}
	if r.out.Errors > 1000 {
		r.stopping = true
		return
	}
	if !r.stopping && c.connect() {
		c.next()
	}
}

func (c *client) connect() bool {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(err)
	if err := syscall.Connect(fd, resolve(c.run.order.Target)); err != nil {
		syscall.Close(fd)
		return false
	}
	check(syscall.SetNonblock(fd, true))
	noDelay(fd)
	c.socket = socket{loop: c.run.loop, fd: fd}
	c.loop.add(fd, c)
	return true
}

func (c *client) send(since time.Duration) {
	r := c.run
	if r.stopping {
		return
	}
	c.since, c.busy, c.recorded = since, true, r.measuring
	c.head, c.inBody, c.size, c.events, c.ttft, c.tail = c.head[:0], false, 0, 0, false, [5]byte{}
	r.busy++
	r.started++
	c.write(r.request)
}

func (c *client) next() {
	r := c.run
	switch {
	case r.order.Requests > 0 && r.started >= r.order.Requests:
	case r.order.Rate == 0:
		c.send(now())
	case len(r.arrivals) > 0:
		due := r.arrivals[0]
		r.arrivals = r.arrivals[1:]
		c.send(due)
	default:
		r.idle = append(r.idle, c)
	}
}

func (c *client) readable() {
	data := c.read()
	r := c.run
	if data == nil {
		if c.busy {
			r.fail(c, "the connection ended within an answer")
		} else {
			r.loop.remove(c.fd)
			if !r.stopping {
				c.connect()
			}
		}
		return
	}
	if !c.inBody {
		if len(c.head) > 0 {
			c.head = append(c.head, data...)
			data = c.head
		}
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			if len(c.head) == 0 {
				c.head = append(c.head, data...)
			}
			return
		}
		if !bytes.HasPrefix(data, []byte("HTTP/1.1 200 ")) {
			r.fail(c, string(data[:min(len(data), 300)]))
			return
		}
		c.length, c.chunked = framing(data[:end])
		c.inBody = true
		data = data[end+4:]
	}
	if c.body(data) {
		c.done()
	}
}

// body takes a piece and says whether the answer is complete.
func (c *client) body(data []byte) bool {
	r := c.run
	c.size += len(data)
	if r.order.Stream {
		found := bytes.Count(data, dataField)
		if r.measuring {
			r.out.Chunks += found
		}
		c.events += found
		if !c.ttft && c.events > 1 { // the first event has the role only
			c.ttft = true
			if c.recorded && r.measuring {
				r.ttfts = append(r.ttfts, float64(now()-c.since)/1e6)
			}
		}
	}
	if !c.chunked {
		return c.size >= c.length
	}
	if count := len(data); count >= 5 {
		copy(c.tail[:], data[count-5:])
	} else {
		copy(c.tail[:], c.tail[count:])
		copy(c.tail[5-count:], data)
	}
	return bytes.Equal(c.tail[:], lastChunk)
}

func (c *client) done() {
	r := c.run
	r.busy--
	c.busy = false
	if r.measuring {
		r.out.Requests++
		if c.recorded {
			r.latencies = append(r.latencies, float64(now()-c.since)/1e6)
		}
	}
	if r.order.Exact && !r.order.Stream && c.size != r.expected {
		r.out.Errors++
		r.out.First = fmt.Sprintf("an answer of %d bytes instead of %d", c.size, r.expected)
	}
	if r.order.Requests > 0 && r.started >= r.order.Requests && r.busy == 0 {
		r.loop.at(now(), func() {}) // the window's end still comes
	}
	c.next()
}

func quantiles(values []float64) map[string]float64 {
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	at := func(q float64) float64 { return values[int(math.Min(float64(len(values)-1), q*float64(len(values))))] }
	return map[string]float64{"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": values[len(values)-1], "n": float64(len(values))}
}

// clocks sums processes' CPU time in microseconds: user and system, threads that ended included.
func clocks(pids []int) float64 {
	sum := 0.0
	for _, pid := range pids {
		sum += clock(^pid<<3 | 2)
	}
	return sum
}

func clock(id int) float64 {
	var spec syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&spec)), 0)
	if errno != 0 {
		return math.NaN()
	}
	return float64(spec.Nano()) / 1e3
}

func seconds(value float64) time.Duration { return time.Duration(value * float64(time.Second)) }
