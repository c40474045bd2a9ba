module llmwarden.io/benchmarks/datapath

go 1.25.0
