#include "roman.h"

static const struct { int value; const char *digits; } table[] = {
	{1000, "M"}, {900, "CM"}, {500, "D"}, {400, "CD"},
	{100, "C"}, {90, "XC"}, {50, "L"}, {40, "XL"},
	{10, "X"}, {9, "IX"}, {5, "V"}, {1, "I"},
};

void roman(int n, char *out)
{
	for (unsigned i = 0; i < sizeof table / sizeof *table; i++)
		for (; n >= table[i].value; n -= table[i].value)
			for (const char *c = table[i].digits; *c; c++)
				*out++ = *c;
	*out = 0;
}
