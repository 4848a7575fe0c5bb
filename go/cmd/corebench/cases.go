package main

import (
	"context"
	"fmt"

	"github.com/cryptflow/cryptflow/go/params"
	planner "github.com/cryptflow/cryptflow/go/plan"
)

// plan is what to measure, and how often.
type plan struct {
	values  int64
	clients int
	runs    int
	threads []int64
}

// largeCohort is the other cohort whose bytes are stated: n ≤ 64.
const largeCohort = 64

// cases are the schemes measured, the one that others are compared with first.
func (p plan) cases() ([]*params.Scheme, error) {
	sum := func(preset string, bits, clients int) params.Choice {
		return params.Choice{Preset: preset, Mode: params.SumKey, Bits: bits, Clients: clients, Weight: 1, Rounding: params.Stochastic}
	}
	nearest := sum("n4096-q102", 16, p.clients)
	nearest.Rounding = params.NearestEven
	choices := []params.Choice{sum("n4096-q102", 16, p.clients), nearest}
	for _, bits := range []int{16, 24} {
		preset, err := smallest(p.values, p.clients, bits)
		if err != nil {
			return nil, err
		}
		choices = append(choices, sum(preset, bits, p.clients))
	}
	choices = append(choices,
		sum("n4096-q102", 16, largeCohort), sum("n4096-q102", 24, largeCohort),
		sum("n4096-q102", 8, p.clients), sum("n2048-q52", 16, p.clients),
	)
	for _, preset := range []string{"n4096-q102", "n8192-q204"} {
		shared := sum(preset, 16, p.clients)
		shared.Mode = params.SharedKey
		choices = append(choices, shared)
	}
	seen := map[params.Choice]bool{}
	var out []*params.Scheme
	for _, c := range choices {
		if seen[c] {
			continue
		}
		seen[c] = true
		s, err := params.NewScheme(c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Preset, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// smallest is the planner's choice in sum-key: the fewest bytes up.
func smallest(values int64, clients, bits int) (string, error) {
	options, err := planner.Options(context.Background(), planner.Request{
		Values: values, Clients: max(clients, 2), Bits: bits, Mode: params.SumKey, Rounding: params.Stochastic,
	})
	if err != nil {
		return "", err
	}
	return options[0].Preset, nil
}

// name is how a scheme is called in rows. What is not said is 8 clients and
// stochastic rounding.
func (p plan) name(s *params.Scheme) string {
	name := fmt.Sprintf("%s %v b=%d", s.Name, s.Mode, s.Bits)
	if s.Clients != p.clients {
		name += fmt.Sprintf(" n=%d", s.Clients)
	}
	if s.Rounding != params.Stochastic {
		name += fmt.Sprintf(" %v", s.Rounding)
	}
	return name
}

// first is the first case, ready to be measured.
func (p plan) first() (*bench, error) {
	cases, err := p.cases()
	if err != nil {
		return nil, err
	}
	return prepare(cases[0], p.values)
}

// all measures every case.
func (p plan) all() ([]row, error) {
	cases, err := p.cases()
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, s := range cases {
		more, err := p.measure(s, p.values)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name(s), err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// lengths measures updates of many lengths, each with the planner's choice.
func (p plan) lengths(lengths []int64) ([]row, error) {
	var rows []row
	for _, n := range lengths {
		preset, err := smallest(n, p.clients, 16)
		if err != nil {
			return nil, err
		}
		s, err := params.NewScheme(params.Choice{Preset: preset, Mode: params.SumKey, Bits: 16, Clients: p.clients, Weight: 1, Rounding: params.Stochastic})
		if err != nil {
			return nil, err
		}
		more, err := p.measure(s, n)
		if err != nil {
			return nil, fmt.Errorf("%d values: %w", n, err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}
