package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// manifest is what this test looks at of a Kubernetes object.
type manifest struct {
	Kind string
	Spec struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Template struct {
			Metadata struct{ Labels, Annotations map[string]string }
			Spec     struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []struct {
					Args []string
					Env  []struct {
						Name      string
						ValueFrom any `yaml:"valueFrom"`
					}
					Ports []struct {
						Name string
						Port int `yaml:"containerPort"`
					}
					Readiness probe `yaml:"readinessProbe"`
					Liveness  probe `yaml:"livenessProbe"`
					Lifecycle struct {
						PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
					}
				}
			}
		}
		Metrics []struct {
			Pods struct {
				Metric struct{ Name string }
				Target struct {
					Average string `yaml:"averageValue"`
				}
			}
		}
	}
}

type probe struct {
	Get struct {
		Path, Port string
	} `yaml:"httpGet"`
}

func manifests(t *testing.T, file string) (all []manifest) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "scripts", "k8s", file))
	if err != nil {
		t.Fatal(err)
	}
	for dec := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var m manifest
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, m)
	}
}

// TestKubernetes: the manifests agree with the gateway that they start. That Kubernetes accepts
// them is for scripts/validate.sh.
func TestKubernetes(t *testing.T) {
	pod := manifests(t, "base/gateway.yaml")[0].Spec.Template
	c := pod.Spec.Containers[0]

	// The settings are valid, with the variables that come from the secret.
	args := []string{"config"}
	for _, a := range c.Args[1:] {
		args = append(args, strings.ReplaceAll(a, "/etc/sluice/", "../../scripts/k8s/base/"))
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = os.Environ()
	for _, e := range c.Env {
		switch {
		case e.Name == "SLUICE_REDIS_URL":
			cmd.Env = append(cmd.Env, e.Name+"=redis://127.0.0.1:6379/0")
		case e.ValueFrom != nil:
			cmd.Env = append(cmd.Env, e.Name+"=0123456789abcdef")
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || c.Args[0] != "serve" || bytes.Contains(out, []byte("unknown")) {
		t.Fatalf("sluice %q: %v\n%s", args, err, out)
	}
	var settings struct {
		Listen, Admin string
		DrainDelay    string `yaml:"drain-delay"`
		DrainTimeout  string `yaml:"drain-timeout"`
		MaxConns      int    `yaml:"max-conns"`
	}
	if err := yaml.Unmarshal(out, &settings); err != nil {
		t.Fatal(err)
	}

	// The kill comes after the end of the drain.
	seconds := func(text string) int {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		return int(d.Seconds())
	}
	ends := c.Lifecycle.PreStop.Sleep.Seconds + seconds(settings.DrainDelay) + seconds(settings.DrainTimeout)
	if c.Lifecycle.PreStop.Sleep.Seconds == 0 || pod.Spec.Grace < ends+5 {
		t.Errorf("a pod is killed after %d s, and its drain takes up to %d s", pod.Spec.Grace, ends)
	}
	for _, p := range c.Ports {
		at := map[string]string{"ws": settings.Listen, "admin": settings.Admin}[p.Name]
		if at != fmt.Sprintf(":%d", p.Port) {
			t.Errorf("port %s is %d, the gateway's is %s", p.Name, p.Port, at)
		}
	}
	// The probes are paths of the public port.
	_, listen, _ := start(t)
	for _, p := range []probe{c.Readiness, c.Liveness} {
		if status, _ := get(t, "http://"+listen+p.Get.Path); status != 200 || p.Get.Port != "ws" {
			t.Errorf("probe %+v: got %d", p, status)
		}
	}
	// What selects the pods finds them.
	for _, file := range []string{"base/gateway.yaml", "deployment/disruption.yaml"} {
		for _, m := range manifests(t, file) {
			for k, v := range m.Spec.Selector.MatchLabels {
				// The name is a label that kustomize adds to both.
				if pod.Metadata.Labels[k] != v && k != "app.kubernetes.io/name" {
					t.Errorf("%s selects %s=%s, which the pods do not have", file, k, v)
				}
			}
		}
	}
	scaler := manifests(t, "deployment/autoscaler.yaml")[0].Spec.Metrics[0].Pods
	if scaler.Metric.Name != "sluice_connections" || scaler.Target.Average != "100k" || settings.MaxConns != 200_000 {
		t.Errorf("scales by %+v, with room for %d: want at half of it", scaler, settings.MaxConns)
	}
}
