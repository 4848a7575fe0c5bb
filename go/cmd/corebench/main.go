// Command corebench measures the core: encrypting float32 values to frames,
// folding frames, decrypting frames to float32. It prints JSON; the scripts in
// benchmarks/ run it and add what other systems take for the same.
//
// Without flags it measures the schemes of [cases] with one update of -values
// values. -counts measures updates of other lengths, each with the parameters
// that the planner chooses. -stream goes through an update mapped from a file
// chunk by chunk and says how much memory that took.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "corebench:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("corebench", flag.ExitOnError)
	values := flags.Int64("values", 1<<20, "values of an update")
	clients := flags.Int("clients", 8, "clients of the cohort")
	runs := flags.Int("runs", 7, "runs of each measurement, after one that does not count")
	threads := flags.String("threads", "", "numbers of threads, such as 1,2; one and all when empty")
	counts := flags.String("counts", "", "lengths of updates, such as 101,5609, instead of -values")
	only := flags.String("only", "", "measure encrypt, fold or decrypt alone, of the first scheme")
	profile := flags.String("profile", "", "write a CPU profile of what -only measures to this file")
	stream := flags.String("stream", "", "go through the float32 values of this file, made when missing")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	cores, err := numbers(*threads)
	if err != nil {
		return err
	}
	if len(cores) == 0 {
		if cores = []int64{1}; runtime.NumCPU() > 1 {
			cores = append(cores, int64(runtime.NumCPU()))
		}
	}
	lengths, err := numbers(*counts)
	if err != nil {
		return err
	}
	if *values < 1 || *clients < 1 || *runs < 1 {
		return fmt.Errorf("values, clients and runs are positive")
	}
	p := plan{values: *values, clients: *clients, runs: *runs, threads: cores}
	var out any
	switch {
	case *stream != "":
		out, err = streamed(*stream, *values, *clients, int(cores[len(cores)-1]))
	case *only != "":
		err = p.profiled(*only, *profile)
	case len(lengths) > 0:
		out, err = p.lengths(lengths)
	default:
		out, err = p.all()
	}
	if err != nil || out == nil {
		return err
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	return encoder.Encode(out)
}

// numbers reads positive integers between commas.
func numbers(list string) ([]int64, error) {
	var out []int64
	for _, text := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a positive integer", text)
		}
		out = append(out, n)
	}
	return out, nil
}

// profiled repeats one kind of work on one thread and profiles it.
func (p plan) profiled(what, file string) error {
	b, err := p.first()
	if err != nil {
		return err
	}
	threads := int(p.threads[0])
	do, ok := b.work(threads)[what]
	if !ok {
		return fmt.Errorf("%q is not encrypt, fold or decrypt", what)
	}
	runtime.GOMAXPROCS(threads)
	if err := do(); err != nil { // warms up
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	for range p.runs {
		if err := do(); err != nil {
			return err
		}
	}
	pprof.StopCPUProfile()
	return f.Close()
}
