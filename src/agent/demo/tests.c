#include <stdio.h>
#include <string.h>
#include "roman.h"

int main(void)
{
	const struct { int n; const char *expected; } cases[] = {
		{1, "I"}, {4, "IV"}, {9, "IX"}, {14, "XIV"}, {1994, "MCMXCIV"}, {2026, "MMXXVI"},
	};
	int failed = 0;
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		char out[32];
		roman(cases[i].n, out);
		if (strcmp(out, cases[i].expected)) {
			printf("%d: expected %s, got %s\n", cases[i].n, cases[i].expected, out);
			failed = 1;
		}
	}
	puts(failed ? "FAILED" : "all tests passed");
	return failed;
}
