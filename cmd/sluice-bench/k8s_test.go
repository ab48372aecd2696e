package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// The Job's arguments are ones that this program takes, and its result is JSON alone.
func TestKubernetesJob(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "scripts", "k8s", "bench-job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var job struct {
		Kind string
		Spec struct {
			CompletionMode           string `yaml:"completionMode"`
			Completions, Parallelism int
			Template                 struct {
				Spec struct {
					Containers []struct{ Command, Args []string }
				}
			}
		}
	}
	if err := yaml.Unmarshal(b, &job); err != nil {
		t.Fatal(err)
	}
	containers := job.Spec.Template.Spec.Containers
	if job.Kind != "Job" || job.Spec.CompletionMode != "Indexed" || len(containers) != 1 ||
		job.Spec.Completions != job.Spec.Parallelism {
		t.Fatalf("want an Indexed Job of one container, all pods at one time: %+v", job)
	}
	var c cli
	parser, err := kong.New(&c, kong.Vars{"baselines": ""})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(containers[0].Args); err != nil {
		t.Fatal(err)
	}
	spec, err := c.Run.spec()
	if err != nil || c.Run.JSON != "-" || spec.StartAt.IsZero() || !spec.AutoRamp {
		t.Errorf("%v; JSON to %q, start at %v, want - and an agreed time", err, c.Run.JSON, spec.StartAt)
	}
}
