package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"sluice/gateway"
)

// Exit statuses.
const (
	exitClean  = 0
	exitFailed = 1
	exitUsage  = 2
	exitCut    = 130 // a second signal ended the process before its drain
)

type commands struct {
	Serve   serveCommand   `cmd:"" help:"Run the gateway."`
	Config  configCommand  `cmd:"" help:"Print the effective configuration as YAML, with where each value came from."`
	Upgrade upgradeCommand `cmd:"" help:"Have a running gateway replace itself by the binary on disk, closing no connection."`
	Version versionCommand `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

type serveCommand struct {
	config `embed:""`
}

type configCommand struct {
	config      `embed:""`
	ShowSecrets bool   `help:"Print the password in redis-url too."`
	Diff        string `placeholder:"FROM" help:"Print only which settings differ from those of FROM, a file or the admin address of a gateway (http://127.0.0.1:8001), and how each change takes effect there."`
}

type versionCommand struct{}

const description = `A WebSocket gateway for very many mostly idle connections.

Settings: a flag wins over its SLUICE_ variable, which wins over the --config file, which wins over the default.`

// run is the whole program but for the operating system's side of it. takeSignals is called when
// there is a gateway to stop. It returns the exit status.
func run(args, environ []string, takeSignals func() <-chan os.Signal, stdout, stderr io.Writer) int {
	usage := func(err error) int {
		// One line, whatever the error quotes.
		fmt.Fprintf(stderr, "sluice: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		return exitUsage
	}
	var cmds commands
	helped := false
	parser := newParser(&cmds, stdout, stderr, func(int) { helped = true })
	for i := 1; i < len(args); i++ {
		if flag, value := args[i-1], args[i]; strings.HasPrefix(flag, "--") && !strings.Contains(flag, "=") && negative(value) {
			return usage(fmt.Errorf("%s: %q is negative", flag, value))
		}
	}
	src, err := findSources(parser, args, environ)
	if err != nil {
		return usage(err)
	}
	ctx, err := parser.Parse(args)
	if helped {
		return exitClean
	}
	if err != nil {
		var parse *kong.ParseError
		if errors.As(err, &parse) && len(args) == 0 {
			err = fmt.Errorf("%w (try sluice --help)", err)
		}
		return usage(err)
	}
	from := origins(ctx, src)
	if ctx.Command() == "config" {
		for _, name := range from.strange {
			fmt.Fprintf(stderr, "sluice: unknown environment variable %s (see sluice serve --help)\n", name)
		}
	}
	switch ctx.Command() {
	case "version":
		fmt.Fprintln(stdout, "sluice", gateway.ReadBuild())
		return exitClean
	case "upgrade":
		return cmds.Upgrade.run(stdout, stderr)
	case "config":
		if err := cmds.Config.check(from.place); err != nil {
			return usage(err)
		}
		var err error
		if c := &cmds.Config; c.Diff != "" {
			err = printDiff(stdout, c.Diff, c.AdminToken, texts(ctx.Selected().Flags))
		} else {
			err = printConfig(stdout, ctx.Selected().Flags, from, c.ShowSecrets)
		}
		if err != nil {
			fmt.Fprintf(stderr, "sluice: print the configuration: %v\n", err)
			return exitFailed
		}
		return exitClean
	default:
		if err := cmds.Serve.check(from.place); err != nil {
			return usage(err)
		}
		set := &inForce{
			reread: func() (reading, error) { return read(args, environ) },
			values: texts(ctx.Selected().Flags),
		}
		return serve(cmds.Serve.config, from, set, takeSignals(), stderr)
	}
}

// newParser reads a command line into cmds.
func newParser(cmds *commands, stdout, stderr io.Writer, exit func(int)) *kong.Kong {
	groups := make([]kong.Group, 0, len(configGroups))
	for _, g := range configGroups {
		groups = append(groups, kong.Group{Key: g.key, Title: g.title + ":"})
	}
	parser, err := kong.New(cmds,
		kong.Name("sluice"), kong.Description(description),
		kong.Writers(stdout, stderr), kong.Exit(exit),
		kong.Vars{"version": "sluice " + gateway.ReadBuild().String()},
		kong.ExplicitGroups(groups), kong.ValueFormatter(helpText),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}))
	if err != nil {
		panic(err) // the tags of the structs above are wrong; no input can do this
	}
	return parser
}

// negative tells a number below zero, which would be taken for a flag.
func negative(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && arg[1] >= '0' && arg[1] <= '9'
}

// findSources reads the environment and the configuration file for the command that args select,
// and makes parser use them. It leaves mistakes in args to parser.
func findSources(parser *kong.Kong, args, environ []string) (*sources, error) {
	ctx, err := kong.Trace(parser, args)
	if err != nil || ctx.Error != nil || ctx.Selected() == nil {
		return &sources{}, nil
	}
	var file string
	for _, p := range ctx.Path {
		switch {
		case p.Flag == nil:
		case p.Flag.Name == "help":
			return &sources{}, nil // must work however broken the configuration is
		case p.Flag.Name == "config":
			file = ctx.FlagValue(p.Flag).(string)
		}
	}
	flags := ctx.Selected().Flags
	if len(flags) == 0 {
		return &sources{}, nil
	}
	src, err := readSources(flags, environ, file)
	if err != nil {
		return nil, err
	}
	return src, kong.Resolvers(src).Apply(parser)
}

// originOf says for each flag where its value came from.
type originOf struct {
	places  map[string]string
	strange []string
}

func origins(ctx *kong.Context, src *sources) originOf {
	from := originOf{places: make(map[string]string), strange: src.strange}
	for name, v := range src.settings {
		from.places[name] = v.place
	}
	for _, p := range ctx.Path {
		if p.Flag != nil && !p.Resolved {
			from.places[p.Flag.Name] = "--" + p.Flag.Name
		}
	}
	return from
}

// place names the origin of a flag's value for an error; the flag itself stands for its default.
func (o originOf) place(flag string) string {
	if p, ok := o.places[flag]; ok {
		return p
	}
	return "--" + flag
}

// helpText adds to the help of a setting its default and its variables.
func helpText(v *kong.Value) string {
	if v.Flag == nil || !fileKey(v.Name) && v.Name != "config" {
		return v.Help
	}
	text := v.Help
	if v.Default != "" {
		text += " Default " + v.Default + "."
	}
	return text + " [$" + strings.Join(variables(v.Name), ", $") + "]"
}
